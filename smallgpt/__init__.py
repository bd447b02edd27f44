"""A toolkit for training small causal GPTs on rows of tokens."""
