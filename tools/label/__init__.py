"""App and strategy for MONAI Label, which runs them in an environment of its own."""
