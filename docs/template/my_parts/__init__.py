"""Parts for anchorbench: one file each, found by the entry points in pyproject.toml."""
