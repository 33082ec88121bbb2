"""Samplers of the reverse chain, one per file; a file defines ``SAMPLER``."""
