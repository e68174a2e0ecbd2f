"""Hugging Face import and export: checkpoints, datasets, and dataset cards."""
