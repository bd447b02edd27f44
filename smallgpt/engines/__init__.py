"""What computes a trained model: torch, or graphs run by ONNX Runtime or OpenVINO."""
