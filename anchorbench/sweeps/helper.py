"""A process that trains stacks of a sweep beside another one: `python -m anchorbench.sweeps.helper OUT`, see `workers.Helpers`."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from anchorbench.recipe import parse_recipe
from anchorbench.sweeps.runner import Progress, Sweep, SweepFolder, train_free
from anchorbench.train.execution import Execution


def help_sweep(out: Path, order: Any) -> None:
    """Trains what is missing and free, and writes a line of JSON for each step: run ids, step, and whether the stack has ended."""
    parent = os.getppid()
    torch.set_num_threads(1)
    sweep = Sweep(parse_recipe(order["base"]), {path: tuple(values) for path, values in order["axes"].items()})

    def tell(event: Progress) -> None:
        if os.getppid() != parent:  # it was killed; what is finished is written
            os._exit(1)
        if event.message is None:
            ids = [recipe.run_id for recipe in event.recipes]
            sys.stdout.write(json.dumps([ids, event.step, event.finished is not None]) + "\n")
            sys.stdout.flush()

    recipes = [recipe for recipe in sweep.runs() if recipe.run_id in order["missing"]]
    train_free(recipes, {}, SweepFolder(out, sweep), tell, Execution(**order["how"]), lambda sentence: None)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends this one
    help_sweep(Path(sys.argv[1]), json.loads(sys.stdin.read()))
