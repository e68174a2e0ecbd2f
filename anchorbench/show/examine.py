"""Examines one model: its behaviour, its mechanism and every probe, as a table, as JSON and as a page of figures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from anchorbench.files import MAX_JSON_BYTES, read_json
from anchorbench.hub.models import load_model, with_own_task
from anchorbench.inspect.classify import classify
from anchorbench.inspect.mechanism import Mechanism, mechanism
from anchorbench.inspect.open_model import OpenModel, open_model
from anchorbench.model.scale import Scale, in_words, scales
from anchorbench.probes import Result, list_probes, probes, run_probe
from anchorbench.recipe import parse_recipe
from anchorbench.show.canvas import plain_matplotlib, save
from anchorbench.sweeps.run_folder import Run, record_mechanism
from anchorbench.task import Task, full_name, list_tasks, load_task
from anchorbench.verdict import FIT, Behaviour

UNFIT = f"not read, as the model has not learned the trained pairs (below {FIT:.0%}): there is no solution to describe"
MARGIN = 0.55
"""Height in inches of the strip with a probe's name."""


@dataclass(frozen=True)
class Examined:
    """Results of `examine`. Where the task or model rules out a probe or the mechanism, a sentence gives the reason instead."""

    task: Task
    behaviour: Behaviour
    mechanism: Mechanism | str
    probes: dict[str, Result | str] | str
    """Results by probe name, or one sentence if the model has not learned its task."""
    scales: dict[str, Scale]


def examine(source: str, task_name: str | None = None, only: str | None = None) -> Examined:
    """Examines a run folder, a checkpoint folder or a Hub id, with all probes or `only` one.

    A run's mechanism is stored beside it and in the tables of its sweep.

    Raises ValueError with one sentence if the model cannot be opened, its task is not known, or it does not fit the task.
    """
    if only is not None:
        probes[only]  # reject an unknown probe before the model is opened
    loaded = load_model(source)
    loaded, task = with_own_task(loaded, _task_of(source, loaded, task_name))
    opened = open_model(loaded)
    behaviour = classify(opened, task)
    try:
        inside: OpenModel | str = opened.look_inside()
    except ValueError as sentence:
        if only is not None:
            raise
        inside = str(sentence)
    how = inside if isinstance(inside, str) else _mechanism(inside, task)
    if isinstance(loaded, Run) and isinstance(how, Mechanism) and task.fingerprint == loaded.result.task_fingerprint:
        record_mechanism(loaded, how.verdict, how.probability)
    return Examined(
        task,
        behaviour,
        mechanism=how,
        probes=_probes(inside, task, only) if behaviour.fit else UNFIT,
        scales=scales(opened.module),
    )


def _mechanism(inside: OpenModel, task: Task) -> Mechanism | str:
    try:
        return mechanism(inside, task)
    except ValueError as sentence:
        return str(sentence)


def _probes(inside: OpenModel | str, task: Task, only: str | None) -> dict[str, Result | str]:
    found: dict[str, Result | str] = {}
    for name in list_probes() if only is None else (only,):
        try:
            found[name] = inside if isinstance(inside, str) else run_probe(name, inside, task)
        except ValueError as sentence:
            if only is not None:
                raise
            found[name] = str(sentence)
    return found


def _task_of(source: str, loaded: object, name: str | None) -> Task:
    """The task called `name` (TASK or TASK-VARIANT), or else the one that a run or an exported checkpoint was trained on.

    Raises ValueError if there is no such task, or the model does not record its task.
    """
    if name is not None:
        named = {full_name(task, variant): (task, variant) for task, variant in list_tasks()}
        return load_task(*named[name]) if name in named else load_task(name)
    if isinstance(loaded, Run):
        return loaded.recipe.load_task()
    card = Path(source) / "anchorbench.json"
    if not card.exists():
        raise ValueError(f"{source} does not say which task it was trained on; give --task, such as --task composite-heldout-both")
    content = read_json(card, most=MAX_JSON_BYTES)
    try:
        return parse_recipe(content["recipe"]).load_task()
    except (KeyError, TypeError):
        raise ValueError(f"{card} holds no recipe; give --task") from None


def as_json(examined: Examined) -> dict[str, Any]:
    """The output of `--json`."""
    behaviour, how = examined.behaviour, examined.mechanism
    read = {} if isinstance(examined.probes, str) else examined.probes
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
        "probes": {name: _probe_json(found) for name, found in read.items()} or None,
        "probes_not_read": examined.probes if isinstance(examined.probes, str) else None,
        "scales": {name: scale._asdict() for name, scale in examined.scales.items()},
    }


def _probe_json(found: Result | str) -> dict[str, Any]:
    if isinstance(found, str):
        return {"not_applicable": found}
    return {"scores": {key: score._asdict() for key, score in found.scores().items()}, "does_not_show": found.does_not_show}


def show(examined: Examined, console: Console) -> None:
    """Prints the verdicts and a table of scores with their controls."""
    behaviour = examined.behaviour
    seen = f"accuracy on trained groups {behaviour.accuracy_iid.value:.2f}"
    share = behaviour.inferential
    composed = "" if share is None else f"; {share:.2f} of held-out answers follow composition"
    console.print(f"behaviour: {behaviour.verdict or 'nothing is held out'} ({seen}{composed})", soft_wrap=True)
    console.print(f"mechanism: {mechanism_in_words(examined.mechanism)}", soft_wrap=True)
    console.print(f"scale: {in_words(examined.scales)} (effective gamma of each matrix)", soft_wrap=True)
    if isinstance(examined.probes, str):
        console.print(f"probes: {examined.probes}", soft_wrap=True)
        return
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
        text = f"{name} does not apply: {found}" if isinstance(found, str) else f"{name}: {found.does_not_show}"
        console.print(text, soft_wrap=True)


def mechanism_in_words(how: Mechanism | str) -> str:
    """The mechanistic verdict in words, or the reason for its absence."""
    if isinstance(how, str):
        return f"none ({how})"
    if how.probability is None:
        return f"undecided (accuracy on trained pairs only {how.accuracy:.2f})"
    words = f"{how.verdict} (probability of inferential {how.probability:.2f})"
    if how.exception_probability is None:
        return words
    return f"{words}; reading of the exception: {how.exception} (probability of ordered {how.exception_probability:.2f})"


@plain_matplotlib()
def draw(examined: Examined, path: Path) -> Path:
    """Writes the page of figures, one panel per probe, as PDF, SVG or PNG by the suffix of `path`.

    Raises ValueError if there is nothing to draw or the file cannot be written.
    """
    from matplotlib.figure import Figure

    if isinstance(examined.probes, str):
        raise ValueError(f"probes are {examined.probes}")
    results = {name: found for name, found in examined.probes.items() if not isinstance(found, str)}
    if not results:
        raise ValueError(f"no probe applies to task {examined.task.name} and this model: there is nothing to draw")
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
    return save(figure, path, dpi=150)


def _short(examined: Examined) -> str:
    return "none" if isinstance(examined.mechanism, str) else examined.mechanism.verdict
