"""Command line: commands, overrides, help, and errors as sentences."""
