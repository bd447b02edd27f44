"""The server: a trained model answers many requests at once over HTTP."""
