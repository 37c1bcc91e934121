"""What is said on a terminal, off one, and in the log file: talk goes to stderr, data to stdout."""
