"""The report: one HTML page that shows the results in an output folder."""
