"""Models outside of the toolkit: ONNX and GGUF files, their check against the model, their report."""
