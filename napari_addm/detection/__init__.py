"""Detection: prepare a scan, reconstruct it, score the difference."""
