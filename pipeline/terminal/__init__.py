"""Output of the command line: log lines and progress go to stderr and the log file, data to stdout."""
