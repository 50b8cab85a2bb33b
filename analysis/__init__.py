"""What a search means: the best runs, the figures, the report."""
