"""The inits, which give the start values of low-rank factors: one file per init, pure linear algebra."""
