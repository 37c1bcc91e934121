"""What is said on a terminal, off one, and in the log file: talk goes to stderr, data to stdout."""

from pipeline.terminal.console import Console
from pipeline.terminal.verb import carried_out, command_given

__all__ = ["Console", "carried_out", "command_given"]
