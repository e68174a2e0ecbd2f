"""Experiment trackers, one file each: `start(name, recipe, out)` gives what `tracking.Tracked` says."""
