"""To and from the Hugging Face world: checkpoints, data sets, their cards."""
