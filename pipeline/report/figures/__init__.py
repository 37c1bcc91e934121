"""The pictures of a report, one file per picture."""
