"""The parts of `tools.verify`."""
