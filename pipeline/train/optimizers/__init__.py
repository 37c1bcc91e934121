"""Optimizers of trials: coefficients of one shared update rule, one file per optimizer."""
