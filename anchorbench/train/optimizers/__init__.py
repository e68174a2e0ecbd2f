"""Optimizers, one per file: a rule from gradients to steps."""
