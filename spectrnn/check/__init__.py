"""Dataset check: broken files, duplicates, leakage between splits."""
