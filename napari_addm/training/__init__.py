"""Training of checkpoints, and their calibration."""
