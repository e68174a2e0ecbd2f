"""Bounds on gradients, one per file."""
