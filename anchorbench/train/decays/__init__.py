"""Kinds of weight decay, one per file."""
