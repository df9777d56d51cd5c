"""Metrics, their intervals, and baselines."""
