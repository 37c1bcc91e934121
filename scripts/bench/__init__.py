"""Parts of the benchmarks, and the reference ways of training that they compare with; the package needs none of it."""
