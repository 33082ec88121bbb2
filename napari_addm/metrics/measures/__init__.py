"""Metrics, one per file; a file defines ``METRIC``."""
