"""Model: encoders, pooling, classifier, task and model files."""
