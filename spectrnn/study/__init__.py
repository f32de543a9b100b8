"""Several runs: cross-validation, sweeps, search and comparison."""
