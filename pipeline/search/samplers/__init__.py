"""Samplers: how a cell's next values are chosen; one file per sampler."""
