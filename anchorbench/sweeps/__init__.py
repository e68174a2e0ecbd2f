"""Many runs: grids, folders, locks, what is trained where, and what came of it."""
