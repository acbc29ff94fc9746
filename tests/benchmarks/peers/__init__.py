"""Other programs and ways to do the same work."""
