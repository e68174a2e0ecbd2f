"""Holds a lock until its input ends."""

import sys
from pathlib import Path

from anchorbench.sweeps.lock import StackLock

lock = StackLock.acquire(Path(sys.argv[1]))
sys.stdout.write(lock.owner.model_dump_json() + "\n")
sys.stdout.flush()
sys.stdin.read()
