"""The output folder and every file in it."""
