"""Checkpoints: truly packed, with a card that says all there is to know."""
