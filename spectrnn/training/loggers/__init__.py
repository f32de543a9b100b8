"""Loggers of a run: TensorBoard, Weights & Biases, MLflow and CSV."""
