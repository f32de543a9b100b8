"""The version of spectrnn."""

__version__ = "0.2.0"
