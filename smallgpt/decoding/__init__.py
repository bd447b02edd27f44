"""Decoding: a key/value cache and sampling."""
