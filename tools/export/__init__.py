"""The parts of `tools.export`."""
