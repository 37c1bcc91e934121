"""Where a model is cut: what is frozen runs once, what is trained runs in every epoch."""
