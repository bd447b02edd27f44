"""Checks of the data before training: leaks and baselines."""
