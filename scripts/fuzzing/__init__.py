"""Mutated recordings in every format, and a supervised decoder."""
