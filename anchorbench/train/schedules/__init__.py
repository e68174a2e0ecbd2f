"""Schedules, one per file: the learning rate after warm-up."""
