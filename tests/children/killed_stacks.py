"""A sweep that is stored by stack, killed at every file operation of its life, or refused it: each in a fork of this process.

Prints, for each operation, what it was, and what was there after it: whole stacks, and anything that is none.
"""

import errno
import json
import os
import sys
from itertools import count
from pathlib import Path

import pyarrow.parquet as pq
import safetensors.torch
from forks import die, fork, hook, root, sweep, wait

from anchorbench.sweeps import folder, runner
from anchorbench.sweeps.failures import FailedStacksError
from anchorbench.sweeps.folder import SweepFolder
from anchorbench.sweeps.store import read_stack

folder.MAX_FOLDERS = 0
OPERATIONS = [(os, "fsync"), (Path, "rename"), (Path, "replace"), (Path, "unlink"), (Path, "write_bytes")]
OPERATIONS += [(pq, "write_table"), (safetensors.torch, "save_file")]


def run(out):
    runner.run_sweep(sweep, SweepFolder(out, sweep))


def refuse():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def life(out, n, strike):
    """Strikes before the n-th operation; 0 if there are fewer, or if the sweep does without it."""
    calls = count(1)

    def at_nth(what):
        def before(*_):
            if next(calls) == n:
                (root / "struck").write_text(what)
                strike()

        return before

    for owner, name in OPERATIONS:
        hook(owner, name, at_nth(name))
    try:
        run(out)
    except (OSError, ValueError, FailedStacksError):
        return 3
    return 0


def every(strike, name):  # noqa: RET503 - it ends with a life that is not struck
    told = []
    for n in count(1):
        out = root / f"{name} {n}"
        (root / "struck").unlink(missing_ok=True)
        code = wait(fork(lambda out=out, n=n: life(out, n, strike)))
        if not (root / "struck").exists():
            assert code == 0
            return told
        found = [path for path in out.glob("stacks/[0-9a-f][0-9a-f]/*") if not path.name.startswith(".")]
        whole = [len(read_stack(out, path)) for path in found]
        assert wait(fork(lambda out=out: run(out))) == 0
        told.append([(root / "struck").read_text(), code, whole])


run(root / "plain")
sys.stdout.write(json.dumps({"killed": every(die, "killed"), "refused": every(refuse, "refused")}))
