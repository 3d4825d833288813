"""Parts of `tools.benchmark`: how rows are measured, and the rows of each method."""
