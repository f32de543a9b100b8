"""Event detection from window or frame probabilities."""
