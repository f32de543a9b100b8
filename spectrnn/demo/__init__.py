"""Browser demo of an exported model."""
