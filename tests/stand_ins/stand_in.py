"""What the stand-ins share."""

import signal
import subprocess


def wait_until_it_trains(process: "subprocess.Popen[str]") -> None:
    """Reads what a worker prints until it begins to train."""
    assert process.stdout is not None
    assert any("runs to train" in line for line in process.stdout), "it ended without training"


def kill_when_it_trains(process: "subprocess.Popen[str]") -> None:
    """Kills a worker as soon as it trains."""
    wait_until_it_trains(process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
