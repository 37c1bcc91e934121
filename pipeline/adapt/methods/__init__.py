"""The adapters; one file a method."""
