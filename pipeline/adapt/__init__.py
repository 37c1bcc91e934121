"""What is trained after compression; one file an adapter, and in ``inits/`` one file a start."""
