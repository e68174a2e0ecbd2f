"""The GPUs of this machine: a worker process for each, over the stacks of one plan."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PAUSED = 128 + signal.SIGTERM
"""Exit code after SIGTERM, which schedulers send before they take a machine away."""


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES has for them."""
    import torch

    count, seen = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(number) for number in range(count)] if seen is None else seen.split(",")[:count]


def run(out: Path, gpus: Sequence[str], options: Sequence[str]) -> None:
    """Starts `anchorbench sweep work OUT OPTIONS` on each of these GPUs, and waits until all have ended, in whatever way.

    If it is interrupted itself, or asked to stop by SIGTERM, they are told to save their state.
    """
    command = [sys.executable, "-m", "anchorbench", "sweep", "work", str(out), *options]
    workers: list[subprocess.Popen[bytes]] = []
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(PAUSED))
    try:
        for gpu in gpus:
            workers.append(subprocess.Popen(command, env=os.environ | {"CUDA_VISIBLE_DEVICES": gpu}))
        for worker in workers:
            worker.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait()
