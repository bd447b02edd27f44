"""Models outside of the toolkit: ONNX files, their check against the model, their report."""
