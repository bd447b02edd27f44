"""Rows of tokens: read, checked, completed, cut, split, batched, cached."""
