"""Pruners: which trials of a cell end early; one file per pruner."""
