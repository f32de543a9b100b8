"""Data pipeline: from files to batches of waveforms."""
