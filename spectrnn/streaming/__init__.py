"""Classification of live audio, and detection of events in it."""
