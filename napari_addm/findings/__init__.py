"""Findings: connected regions above the threshold, and their measures."""
