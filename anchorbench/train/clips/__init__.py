"""Gradient clipping, one kind per file."""
