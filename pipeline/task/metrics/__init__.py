"""Metrics; one file per metric."""
