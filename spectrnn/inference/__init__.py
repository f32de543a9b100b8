"""Inference: predictor, sliding windows, batch prediction and its writers."""
