"""File formats of scans: one file each, with all about it in its ``FORMAT``."""
