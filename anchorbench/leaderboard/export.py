"""Exports an entry to the Hugging Face Hub: `eval.yaml` of the benchmark's dataset, and `.eval_results` of a model repository.

(https://huggingface.co/docs/hub/eval-results.) The Hub expects a model with one metric per task. Here a task's value is
the share of the recipe's runs that are inferential, in [0, 1]; `notes` gives their number.
"""

from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
from huggingface_hub.utils import HFValidationError, validate_repo_id

from anchorbench.files import write_atomically
from anchorbench.leaderboard.entry import Entry
from anchorbench.leaderboard.statistics import statistics_of
from anchorbench.leaderboard.suite import TRACKS, SuiteTask
from anchorbench.task import full_name


def task_id(task: SuiteTask) -> str:
    """The task's name on the Hub, which is also the name of its dataset config."""
    return full_name(task.task, task.variant)


def benchmark(track: str) -> dict[str, Any]:
    """The content of `eval.yaml`: the suite's tasks, and for each the split that determines the verdict."""
    suite = TRACKS[track].suite
    special = [task.words for task in suite if task.config]
    return {
        "name": f"anchorbench, {track}",
        "description": "Does a training recipe make a transformer infer the rule, or memorize the table? The value of a task is the"
        " share of answers on held-out groups that compose, over runs with seeds that nobody could choose."
        + (f" With non-default settings: {'; '.join(special)}." if special else ""),
        "evaluation_framework": "anchorbench",
        "tasks": [{"id": task_id(task), "config": task_id(task), "split": "ood"} for task in suite],
    }


def results(entry: Entry, dataset: str) -> list[EvalResultEntry]:
    """One result per task; `dataset` is the benchmark's repository, OWNER/NAME."""
    found: list[EvalResultEntry] = []
    for task in statistics_of(entry.recipe, entry.rows).tasks:
        share, inferential = task.composed, task.inferential
        notes = (
            f"95% interval {share.low:.3f} to {share.high:.3f}; {inferential.hits} of {inferential.n} runs inferential;"
            f" recipe {entry.digest[:12]}"
        )
        found.append(EvalResultEntry(dataset_id=dataset, task_id=task_id(task.task), value=round(share.value, 6), notes=notes))
    return found


def export_entry(entry: Entry, dataset: str, out: Path) -> list[Path]:
    """Writes `out/eval.yaml` and `out/.eval_results/anchorbench.yaml`; returns their paths.

    Raises ValueError if `dataset` is not a valid Hub repository name.
    """
    try:
        validate_repo_id(dataset if "/" in dataset else "")
    except HFValidationError:
        raise ValueError(f"dataset is {dataset!r}; allowed: OWNER/NAME of letters, digits, '-', '_' and '.'") from None
    (out / ".eval_results").mkdir(parents=True, exist_ok=True)
    contents = {
        out / "eval.yaml": benchmark(entry.recipe.track),
        out / ".eval_results" / "anchorbench.yaml": eval_result_entries_to_yaml(results(entry, dataset)),
    }
    for path, content in contents.items():
        write_atomically(path, yaml.safe_dump(content, sort_keys=False, width=120).encode())
    return list(contents)
