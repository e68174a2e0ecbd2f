"""Examines one model: its behaviour, the forecast of it and every probe, as a table, as JSON and as a page of figures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from anchorbench.files import MAX_JSON_BYTES, read_json
from anchorbench.hub.models import load_model, with_own_task
from anchorbench.inspect.classify import classify
from anchorbench.inspect.forecast import Forecast, Share, forecast
from anchorbench.inspect.open_model import OpenModel, open_model
from anchorbench.model.scale import Scale, in_words, scales
from anchorbench.probes import Result, list_probes, probes, run_probe
from anchorbench.recipe import parse_recipe
from anchorbench.show.canvas import plain_matplotlib, save
from anchorbench.sweeps.run_folder import Reading, Run, record_forecast
from anchorbench.task import Task, full_name, list_tasks, load_task
from anchorbench.verdict import FIT, Behaviour

UNASKED = "not read; --probes reads them"
UNFIT = f"not read, as the model has not learned the trained pairs (below {FIT:.0%}): there is no solution to describe"
MARGIN = 0.55
"""Height in inches of the strip with a probe's name."""


@dataclass(frozen=True)
class Examined:
    """Results of `examine`. Where the task or model rules out a probe or the forecast, a sentence gives the reason instead."""

    task: Task
    inside: OpenModel | str
    """The model opened for reading."""
    behaviour: Behaviour
    forecast: Forecast | str
    probes: dict[str, Result | str] | str
    """Results by probe name, or one sentence if they were not read."""
    scales: dict[str, Scale]


def examine(source: str, task_name: str | None = None, only: str | None = None, *, with_probes: bool = True) -> Examined:
    """Examines a run folder, a checkpoint folder or a Hub id, with all probes, `only` one, or none.

    A run's forecast is stored beside it and in the tables of its sweep.

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
    expected = inside if isinstance(inside, str) else _forecast(inside, task)
    if isinstance(loaded, Run) and isinstance(expected, Forecast) and task.fingerprint == loaded.result.task_fingerprint:
        share = expected.share
        low, high = (None, None) if share is None else (share.low, share.high)
        value = None if share is None else share.value
        record_forecast(loaded, Reading(forecast=expected.name, forecast_share=value, forecast_low=low, forecast_high=high))
    unread = UNASKED if not with_probes and only is None else UNFIT
    return Examined(
        task,
        inside,
        behaviour,
        forecast=expected,
        probes=_probes(inside, task, only) if behaviour.fit and unread is not UNASKED else unread,
        scales=scales(opened.module),
    )


def _forecast(inside: OpenModel, task: Task) -> Forecast | str:
    try:
        return forecast(inside, task)
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
    behaviour = examined.behaviour
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
            "accuracy_seen": behaviour.accuracy_seen.value,
            "accuracy_iid": behaviour.accuracy_iid.value,
            **{name: share and share.value for name, share in asked.items()},
            "intervals": {name: share.interval for name, share in asked.items() if share},
        },
        "forecast": _forecast_json(examined.forecast),
        "probes": {name: _probe_json(found) for name, found in read.items()} or None,
        "probes_not_read": examined.probes if isinstance(examined.probes, str) else None,
        "scales": {name: scale._asdict() for name, scale in examined.scales.items()},
    }


def _forecast_json(found: Forecast | str) -> dict[str, Any]:
    if isinstance(found, str):
        return {"verdict": None, "why": found}
    shares = {name: getattr(found, name) for name in ("composes", "ordered", "symmetric")}
    return {
        "verdict": found.name,
        "exception": found.exception,
        **{name: share and {"value": share.value, "low": share.low, "high": share.high} for name, share in shares.items()},
        "groups": found.groups,
        "fidelity": found.fidelity,
        "disagreement": found.found and found.found.disagreement,
        "accuracy": found.accuracy,
        "why": found.why,
    }


def _probe_json(found: Result | str) -> dict[str, Any]:
    if isinstance(found, str):
        return {"not_applicable": found}
    return {"scores": {key: score._asdict() for key, score in found.scores().items()}, "does_not_show": found.does_not_show}


def show(examined: Examined, console: Console) -> None:
    """Prints the verdicts and a table of scores with their controls."""
    behaviour = examined.behaviour
    iid = f"{behaviour.accuracy_iid.value:.2f} at unseen keys and positions"
    seen = f"accuracy on trained groups {behaviour.accuracy_seen.value:.2f}, {iid}"
    share = behaviour.inferential
    composed = "" if share is None else f"; {share:.2f} of held-out answers follow composition"
    console.print(f"behaviour: {behaviour.verdict or 'nothing is held out'} ({seen}{composed})", soft_wrap=True)
    console.print(f"forecast: {forecast_in_words(examined.forecast)}", soft_wrap=True)
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


def forecast_in_words(found: Forecast | str) -> str:
    """The forecast in words with the measures that it rests on, or the reason for its absence."""
    if isinstance(found, str):
        return f"none ({found})"
    if found.why is not None or found.share is None or found.found is None:
        return f"{found.name} ({found.why})"
    words = f"{found.name}: {_in_words(found.share)} of held-out answers compose, from trained sequences alone"
    faithful = f"recombined, {found.fidelity:.2f} of trained sequences are answered right"
    words += f" ({faithful}; sites differ by {found.found.disagreement:.2f})"
    if found.composes is None or found.ordered is None or found.symmetric is None:
        return words
    answers = f"{_in_words(found.ordered)} composed, {_in_words(found.symmetric)} as the exception"
    return f"{words}; the exception's mirror: {found.exception} ({answers})"


def _in_words(share: Share) -> str:
    return f"{share.value:.2f} ({share.low:.2f} to {share.high:.2f})"


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
        f"{examined.task.name}, {examined.task.variant}; behaviour: {verdict}; forecast: {_short(examined)}", fontsize=11
    )
    return save(figure, path, dpi=150)


def _short(examined: Examined) -> str:
    return "none" if isinstance(examined.forecast, str) else examined.forecast.name
