"""Estimators, one per file: what the optimizer takes for the gradient."""
