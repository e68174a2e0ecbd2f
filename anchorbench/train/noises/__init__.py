"""Noise on activations during training, one kind per file."""
