"""Gradient paths: how a stack's losses and gradients are computed."""
