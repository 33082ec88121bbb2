"""Scores of scan and reconstruction, one per file; a file defines ``SCORE``."""
