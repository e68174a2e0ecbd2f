"""Events that enlarge a model during training, one kind per file."""
