"""Export: ONNX, quantization, parity checks and the model card."""
