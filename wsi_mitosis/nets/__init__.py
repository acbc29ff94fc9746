"""The networks: the only code that imports torch."""
