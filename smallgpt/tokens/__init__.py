"""Tokens: vocabulary, labels, text tokenizers, image codebooks."""
