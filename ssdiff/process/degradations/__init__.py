"""Degradations D(x, t): what they promise, and one file a family."""
