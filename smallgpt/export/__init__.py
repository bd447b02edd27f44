"""Models outside of the toolkit: ONNX and GGUF files, checked against the model, with a report."""
