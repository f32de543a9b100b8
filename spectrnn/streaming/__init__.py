"""Streaming: classification and event detection on live audio."""
