"""Optimizers, one per file: rules that turn gradients into steps."""
