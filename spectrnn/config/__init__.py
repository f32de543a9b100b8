"""Configuration: composition, validation and instantiation."""
