"""Stacks of models in training."""
