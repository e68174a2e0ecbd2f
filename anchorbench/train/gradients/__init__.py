"""Ways to get losses and gradients of a stack."""
