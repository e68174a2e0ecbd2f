"""Penalties on weights, one per file."""
