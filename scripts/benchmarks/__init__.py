"""What scripts/benchmark.py benchmarks, a module a question."""
