"""The outputs of frozen layers, kept on disk."""
