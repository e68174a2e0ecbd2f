"""SLURM: an sbatch array, each of whose tasks is a worker for one stack of a plan.

`--requeue` puts tasks whose node fails or is preempted back into the queue; a task that is about to run out of time saves its state
and requeues itself. The number of restarts is the attempt that takes the stack's lock over from the node that was lost.
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from anchorbench.files import visible, write_atomically
from anchorbench.sweeps.status import status

MAX_TASKS = 1000
"""Tasks in an array: SLURM's own limit, unless a site has changed it. With more stacks, tasks train free ones."""
WARNING_SECONDS = 120
"""How long before the end of its time a task is told to save its state."""
OWN = ("array", "requeue", "signal", "chdir", "output", "open-mode", "parsable", "wrap")
"""Options of sbatch that are ours to set."""


def parse_options(text: str) -> dict[str, str]:
    """Parses `partition=gpu,time=60,limit=8`: options of sbatch, and `limit`, how many tasks may run at once.

    Raises ValueError with one sentence for an option that is ours to set, or given twice, and for odd characters.
    """
    options: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        key, _, value = part.partition("=")
        if not re.fullmatch(r"[a-z][a-z-]*", key) or not re.fullmatch(r"[\w.:/+@%*-]*", value, re.ASCII):
            raise ValueError(f"slurm has the option {part[:100]!r}; allowed: options of sbatch, such as partition=gpu,time=60")
        if key in OWN or key in options:
            raise ValueError(f"slurm has the option {key!r}{' twice' if key in options else ''}; allowed: others, each once")
        options[key] = value
    if "limit" in options and not re.fullmatch(r"[1-9][0-9]{0,5}", options["limit"]):
        raise ValueError(f"slurm has limit={options['limit']}; allowed: a number of tasks that run at once")
    return options


def submit(out: Path, options: Mapping[str, str]) -> str:
    """Writes `slurm.sh` for the stacks of the plan that are not finished, submits it, and returns one sentence about the job.

    Raises ValueError with one sentence if nothing is left to train, or sbatch is missing or refuses.
    """
    left = [stack.number for stack in status(out).stacks if stack.state != "finished"]
    if not left:
        raise ValueError(f"{out} has no stack that is not finished; allowed: a plan with stacks to train")
    script = out / "slurm.sh"
    (out / "logs").mkdir(exist_ok=True)
    write_atomically(script, _script(out.resolve(), left, options).encode())
    where = ["--chdir", str(out.resolve()), "--output", "logs/%A_%a.log"]
    try:
        done = subprocess.run(["sbatch", "--parsable", *where, str(script)], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ValueError(f"sbatch is not found here; submit {script} where it is") from None
    if done.returncode:
        raise ValueError(f"sbatch refuses {script}: {visible(done.stderr.strip() or f'exit code {done.returncode}')}")
    job = visible(done.stdout.strip().partition(";")[0], 40)
    return f"job {job}: {min(len(left), MAX_TASKS)} tasks for {len(left)} stacks; logs: {out / 'logs'}"


def _script(out: Path, stacks: list[int], options: Mapping[str, str]) -> str:
    each = len(stacks) <= MAX_TASKS  # else tasks train free stacks
    tasks = _ranges(stacks) if each else f"0-{MAX_TASKS - 1}"
    limit = f"%{options['limit']}" if "limit" in options else ""
    lines = [f"--{key}={value}" if value else f"--{key}" for key, value in options.items() if key != "limit"]
    head = [f"--array={tasks}{limit}", "--requeue", f"--signal=B:TERM@{WARNING_SECONDS}", "--open-mode=append", *lines]
    command = shlex.join([sys.executable, "-m", "anchorbench", "sweep", "work", str(out)])
    if each:
        command += ' --stack "$SLURM_ARRAY_TASK_ID" --attempt "${SLURM_RESTART_COUNT:-0}"'
    return "\n".join(
        [
            "#!/bin/bash",
            *(f"#SBATCH {line}" for line in head),
            "trap 'stopped=1; kill -TERM \"$worker\"' TERM",
            f"{command} &",
            "worker=$!",
            'wait "$worker"; code=$?',
            'if [ -n "$stopped" ]; then wait "$worker"; code=$?; fi  # the first wait was interrupted',
            'if [ "$code" = 143 ]; then scontrol requeue "$SLURM_JOB_ID"; fi  # the state is saved',
            'exit "$code"',
            "",
        ]
    )


def _ranges(numbers: list[int]) -> str:
    """`0-3,7` for sorted numbers."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in found)
