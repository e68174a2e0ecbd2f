"""The GPT that is trained, its variants, and their initialization."""
