"""Model variants, one per file; the GPT that they vary is registered with them."""

from anchorbench.model.gpt import GPT

__all__ = ["GPT"]
