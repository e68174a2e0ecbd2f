"""The tasks that come with anchorbench, one file per task or family."""
