"""Where the factors start; one file an init, pure linear algebra."""
