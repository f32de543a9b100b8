"""Broken recordings in every format, and what the decoder and `spectrnn predict` make of them."""
