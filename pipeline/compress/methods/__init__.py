"""The compressions; one file a method."""
