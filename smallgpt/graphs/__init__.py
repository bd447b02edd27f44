"""ONNX graphs of a model, written by hand."""
