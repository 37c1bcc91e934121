"""Reference ways of training a sweep's trials, for benchmarks to compare with; nothing here imports the package."""
