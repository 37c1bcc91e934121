"""Spectra of weights and of adapters' products, watched over the epochs of a training."""
