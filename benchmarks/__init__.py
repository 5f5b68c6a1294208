"""The step, k-means and their peers, timed. Run as ``python -m experiments.benchmark``; not installed."""
