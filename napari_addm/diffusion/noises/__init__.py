"""Noises of a diffusion chain, one per file; a file defines ``NOISE``."""
