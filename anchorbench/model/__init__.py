"""The GPT that is trained, and how its weights are drawn."""
