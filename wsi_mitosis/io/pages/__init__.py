"""The report: a page for people, made of what the output folder holds."""
