"""The adapters: one file per method."""
