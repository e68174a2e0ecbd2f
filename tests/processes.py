"""Programs of children/, which tests run in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

from conftest import ROOT


def child(name: str, *arguments: object) -> list[str]:
    """The command that runs children/`name`.py."""
    return [sys.executable, str(ROOT / "tests" / "children" / f"{name}.py"), *map(str, arguments)]


def environment(*folders: Path, **variables: str) -> dict[str, str]:
    """This process's environment with further variables; imports are also from `folders`, and the package is this one."""
    path = os.pathsep.join(map(str, [*folders, ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]))
    return os.environ | {"PYTHONPATH": path} | variables


def said_by(name: str, *folders: Path, **variables: str) -> str:
    """What children/`name`.py prints, in such an environment."""
    done = subprocess.run(child(name), env=environment(*folders, **variables), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
