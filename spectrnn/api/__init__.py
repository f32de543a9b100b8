"""The Python interface: load a model, predict, detect events, evaluate, train."""
