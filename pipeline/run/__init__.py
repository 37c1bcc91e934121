"""A whole study: searched, tested, planned, cleaned up after."""
