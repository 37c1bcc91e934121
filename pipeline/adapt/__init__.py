"""Adapters, trained after compression, and their start values; one file each in ``methods/`` and ``inits/``."""
