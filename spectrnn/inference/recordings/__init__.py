"""Many recordings, or one that does not end: heard heap by heap, and written line by line."""
