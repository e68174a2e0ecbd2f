"""Takes three locks in random order, which other processes want as well, and often leaves one as if killed."""

import random
import sys
from pathlib import Path

from anchorbench.sweeps.lock import StackLock

folder, dead, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
rng, taken = random.Random(seed), 0  # noqa: S311 - no secret
while taken < 30:
    name = f"{rng.randrange(3)}"
    lock = StackLock.acquire(folder / f"{name}.lock")
    if lock is None:
        continue
    taken += 1
    inside = folder / f"{name}.inside"
    inside.touch(exist_ok=False)  # fails if another process is inside
    counter = folder / f"{name}.count"
    counter.write_text(str(int(counter.read_text()) + 1))
    inside.unlink()
    if rng.random() < 0.5:  # as if killed here: the file stays, and its owner is a process that is gone
        died = folder / f"{name}.died.{seed}"
        died.write_text(lock.owner.model_copy(update={"pid": dead, "token": f"{seed}.{taken}"}).model_dump_json())
        died.replace(lock.path)
        assert not lock.still_mine()
    lock.release()
