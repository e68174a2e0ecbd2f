"""Events after which a model is larger, one kind per file."""
