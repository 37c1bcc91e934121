"""What a study came to: tables, pictures, and one page that holds both."""
