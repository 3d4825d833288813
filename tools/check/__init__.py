"""Check of a run before it is started."""
