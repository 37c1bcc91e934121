"""The task: a model, its data, their split, and the baseline that adapters restore."""
