"""The search: what is asked, who decides, where trials are kept, and which of them win."""
