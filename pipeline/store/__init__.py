"""All writing to the stored studies."""
