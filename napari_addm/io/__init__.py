"""Scans and label images: reading, writing and resampling."""
