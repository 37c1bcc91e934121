"""One combination, before and during a trial."""
