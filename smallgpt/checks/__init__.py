"""Checks of the data before training: data report, leak detection, baselines."""
