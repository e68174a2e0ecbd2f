"""Begins a new folder, and is killed in it or waits there until its input ends."""

import os
import signal
import sys
from pathlib import Path

from anchorbench.files import new_folder

with new_folder(Path(sys.argv[1]), marker="x") as folder:
    (folder / "half").touch()
    print(folder, flush=True)
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdin.read()
