"""Metrics: how well maps and findings agree with a reference."""
