"""The compressions: one file per method."""
