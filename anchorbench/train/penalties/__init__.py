"""Loss terms on weights or activations, one per file."""
