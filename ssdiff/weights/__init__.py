"""Weights out of runs, checkpoints and files, trusted or not."""
