"""Checks of a bundle, each in a module, and the findings of them all."""
