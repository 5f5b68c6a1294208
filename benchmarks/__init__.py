"""Benchmarks of the step, evaluation and k-means. Run as ``python -m experiments.benchmark``; not installed."""
