"""Compression of a model's layers; each method is a file in ``methods/``."""
