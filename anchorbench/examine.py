"""One model examined: its behaviour, its mechanism and every probe, as a table, as JSON and as a page of figures."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from anchorbench.classification import classify
from anchorbench.hub import load_model
from anchorbench.mechanism import Mechanism, mechanism
from anchorbench.probes import Result, list_probes, run_probe
from anchorbench.recipe import parse_recipe
from anchorbench.store import MAX_JSON_BYTES, Run, write_atomically
from anchorbench.task import Task, list_tasks, load_task
from anchorbench.verdict import Behaviour

FORMATS = ("pdf", "svg", "png")
MARGIN = 0.55
"""Of each probe's part of the page, for its name, in inches."""


@dataclass(frozen=True)
class Examined:
    """What was found; a probe or mechanism that the task or model does not allow is the sentence that says so."""

    task: Task
    behaviour: Behaviour
    mechanism: Mechanism | str
    probes: dict[str, Result | str]


def examine(source: str, task_name: str | None = None, only: str | None = None) -> Examined:
    """Examines a run folder, a checkpoint folder or a Hub id, by all probes or `only` one.

    Raises ValueError with one sentence if it cannot be opened, its task is not known, or it does not fit the task.
    """
    if only is not None and only not in list_probes():
        raise ValueError(f"unknown probe {only!r}; allowed: {', '.join(list_probes())}")
    task, model = task_of(source, task_name), load_model(source)
    behaviour = classify(model, task)
    found: dict[str, Result | str] = {}
    for name in list_probes() if only is None else (only,):
        try:
            found[name] = run_probe(name, model, task)
        except ValueError as sentence:
            if only is not None:
                raise
            found[name] = str(sentence)
    try:
        how: Mechanism | str = mechanism(model, task)
    except ValueError as sentence:
        how = str(sentence)
    return Examined(task, behaviour, how, found)


def task_of(source: str, name: str | None) -> Task:
    """The task called `name` (TASK or TASK-VARIANT), or else the one that a run or an exported checkpoint was trained on.

    Raises ValueError if there is no such task, or the model does not say.
    """
    if name is not None:
        named = {f"{task}-{variant}": (task, variant) for task, variant in list_tasks()}
        return load_task(*named[name]) if name in named else load_task(name)
    folder = Path(source)
    if (folder / "digests.json").exists():
        loaded = load_model(folder)
        if isinstance(loaded, Run):
            return loaded.recipe.load_task()
    card = folder / "anchorbench.json"
    if not card.exists():
        raise ValueError(f"{source} does not say which task it was trained on; give --task, such as --task composite-heldout-both")
    try:
        if card.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"{card} has {card.stat().st_size} bytes; allowed: at most {MAX_JSON_BYTES}")
        return parse_recipe(json.loads(card.read_bytes())["recipe"]).load_task()
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError):
        raise ValueError(f"{card} holds no recipe; give --task") from None


def as_json(examined: Examined) -> dict[str, Any]:
    """What `--json` prints."""
    behaviour, how = examined.behaviour, examined.mechanism
    asked = {name: getattr(behaviour, name) for name in ("composes", "ordered", "symmetric", "commutes")}
    return {
        "task": examined.task.name,
        "variant": examined.task.variant,
        "behaviour": {
            "verdict": behaviour.verdict,
            "composition": behaviour.composition,
            "exception": behaviour.exception,
            "inferential": behaviour.inferential,
            "accuracy_train": behaviour.accuracy_train.value,
            "accuracy_iid": behaviour.accuracy_iid.value,
            **{name: share and share.value for name, share in asked.items()},
            "intervals": {name: share.interval for name, share in asked.items() if share},
        },
        "mechanism": {"verdict": None, "probability": None, "why": how}
        if isinstance(how, str)
        else {
            "verdict": how.verdict,
            "probability": how.probability,
            "exception": how.exception,
            "exception_probability": how.exception_probability,
            "accuracy": how.accuracy,
            "features": how.features,
        },
        "probes": {
            name: {"not_applicable": found}
            if isinstance(found, str)
            else {
                "scores": {key: score._asdict() for key, score in found.scores().items()},
                "does_not_show": found.does_not_show,
            }
            for name, found in examined.probes.items()
        },
    }


def show(examined: Examined, console: Console) -> None:
    """Prints verdicts and the table of scores with their controls."""
    behaviour = examined.behaviour
    seen = f"{behaviour.accuracy_iid.value:.2f} of the answers on trained groups right"
    share = behaviour.inferential
    composed = "" if share is None else f", {share:.2f} of the held-out ones as composing says"
    console.print(f"behaviour: {behaviour.verdict or 'nothing is held out'} ({seen}{composed})", soft_wrap=True)
    console.print(f"mechanism: {mechanism_in_words(examined.mechanism)}", soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header in ("probe", "score", "value", "95% interval", "control"):
        table.add_column(header, justify="left" if header in ("probe", "score") else "right")
    for name, found in examined.probes.items():
        if not isinstance(found, str):
            for number, (key, score) in enumerate(found.scores().items()):
                interval = f"{score.low:.2f} to {score.high:.2f}"
                table.add_row(name if number == 0 else "", key, f"{score.value:.2f}", interval, f"{score.control:.2f}")
            table.add_section()
    console.print(table)
    for name, found in examined.probes.items():
        text = f"{name} does not fit: {found}" if isinstance(found, str) else f"{name}: {found.does_not_show}"
        console.print(text, soft_wrap=True)


def mechanism_in_words(how: Mechanism | str) -> str:
    """The mechanistic verdict, or why there is none."""
    if isinstance(how, str):
        return f"none ({how})"
    if how.probability is None:
        return f"undecided (only {how.accuracy:.2f} of the answers on trained pairs are right)"
    words = f"{how.verdict} (probability of inferring {how.probability:.2f})"
    if how.exception_probability is None:
        return words
    return f"{words}; the exception is read as {how.exception} (probability of ordered {how.exception_probability:.2f})"


def draw(examined: Examined, path: Path) -> None:
    """Writes the page of figures, a part a probe. Raises ValueError for another format than pdf, svg or png."""
    from matplotlib.figure import Figure

    kind = path.suffix.removeprefix(".")
    if kind not in FORMATS:
        raise ValueError(f"figures is {str(path)!r}; allowed: a file that ends in .{', .'.join(FORMATS)}")
    results = {name: found for name, found in examined.probes.items() if not isinstance(found, str)}
    if not results:
        raise ValueError(f"no probe fits task {examined.task.name}: there is nothing to draw")
    heights = [found.size[1] + MARGIN for found in results.values()]
    widest = max(found.size[0] for found in results.values())
    figure = Figure(figsize=(widest, sum(heights) + 0.5), layout="constrained")
    parts = figure.subfigures(len(results), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, (name, found) in zip(parts, results.items(), strict=True):
        found.draw(part)
        part.suptitle(name.replace("_", " "), fontsize=11, x=0.01, ha="left", weight="bold")
    verdict = examined.behaviour.verdict or "nothing held out"
    figure.suptitle(
        f"{examined.task.name}, {examined.task.variant}; behaviour: {verdict}; mechanism: {_short(examined)}", fontsize=11
    )
    content = io.BytesIO()
    figure.savefig(content, format=kind, dpi=150)
    write_atomically(path, content.getvalue())


def _short(examined: Examined) -> str:
    return "none" if isinstance(examined.mechanism, str) else examined.mechanism.verdict
