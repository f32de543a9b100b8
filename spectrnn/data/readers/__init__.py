"""Readers of recordings: one interface over libsndfile, FFmpeg, and headers whose sizes are wrong."""
