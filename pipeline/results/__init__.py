"""All reading of the stored studies; needs no torch."""
