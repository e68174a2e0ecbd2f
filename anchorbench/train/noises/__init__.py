"""Randomness inside training steps, one kind per file."""
