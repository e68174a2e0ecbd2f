"""Engines that start workers of a plan elsewhere: SLURM and Ray."""
