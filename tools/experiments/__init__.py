"""Commands that repeat an experiment of the bundles."""
