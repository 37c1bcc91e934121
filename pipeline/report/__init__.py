"""The report of a study: tables, pictures, and one page with both."""
