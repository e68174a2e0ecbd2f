"""Trains sweep.yaml in a folder on a local Ray, one of whose processes is killed while it trains."""

import os
import signal
import sys
import threading
from pathlib import Path

from anchorbench.cli.plan import load_sweep, make_cut
from anchorbench.sweeps.engines.ray import run
from anchorbench.sweeps.folder import SweepFolder
from anchorbench.sweeps.lock import living
from anchorbench.sweeps.plan import write_plan

place = Path(sys.argv[1])
out = place / "sweep"
sweep = load_sweep(place / "sweep.yaml", ())
write_plan(sweep, SweepFolder(out, sweep), make_cut(sweep, 2, None, None, ()))


def strike() -> None:
    """Kills the first process that holds a lock."""
    while not (owners := living(out / "locks")):
        threading.Event().wait(0.05)
    os.kill(next(iter(owners.values())).pid, signal.SIGKILL)


threading.Thread(target=strike, daemon=True).start()
run(out, None, lambda sentence: sys.stdout.write(sentence + "\n"))
