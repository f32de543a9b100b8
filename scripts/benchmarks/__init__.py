"""The measurements of scripts/benchmark.py, one module per question."""

import os
from importlib import import_module

# Of every measured command. spectrnn adds settings of its threads to its own environment, which other recipes lack, and
# without bytecode every start would compile what it imports.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
import_module("spectrnn")  # before PyTorch, as its command line does, so that threads wait here as in a training
