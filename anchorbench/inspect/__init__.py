"""Trained models of any origin: what they answer, what goes on inside, and what that says."""
