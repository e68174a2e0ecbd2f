"""Initializers, one per file: how weights are drawn."""
