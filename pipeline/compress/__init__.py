"""Methods that make a layer's weight small; one file a method."""
