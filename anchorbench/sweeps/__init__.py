"""Sweeps of many runs: grids, run folders, locks, scheduling, and results."""
