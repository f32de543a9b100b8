"""The `check` command: an audit of a dataset for unusable clips, duplicates and leakage between splits."""
