"""The commands of the command line, by their full names."""

from typing import Any

import typer

from anchorbench.cli.main import app


def commands(group: Any = None, name: str = "") -> dict[str, Any]:
    """Name with its group, such as `sweep run` -> command."""
    found: dict[str, Any] = {}
    for word, inner in (group or typer.main.get_command(app)).commands.items():
        full = f"{name} {word}".strip()
        found |= commands(inner, full) if hasattr(inner, "commands") else {full: inner}
    return found


COMMANDS = commands()
