"""Training losses; one file per loss."""
