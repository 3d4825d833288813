"""Parts of the tool that lists the scans of a data set: the scans and their pairs, the values of their labels."""
