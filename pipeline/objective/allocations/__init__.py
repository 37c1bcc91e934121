"""Allocations: how a budget is spread over layers; one file per allocation."""
