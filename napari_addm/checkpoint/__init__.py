"""Checkpoints: what a model is, written in a file that executes nothing."""
