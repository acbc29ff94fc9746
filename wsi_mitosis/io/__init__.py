"""The only code that opens paths."""
