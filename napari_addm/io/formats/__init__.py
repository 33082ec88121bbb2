"""File formats of scans: one file each, whose ``FORMAT`` says all about it."""
