"""What the page says in words and tables; one file a section."""
