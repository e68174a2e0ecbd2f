"""The format of an entry: its JSON schema, and leaderboard/README.md, which explains each field. Both are generated."""

import json
from typing import Any

from pydantic import BaseModel

from anchorbench.leaderboard.check import MAX_DEPTH, MAX_ENTRY_BYTES
from anchorbench.leaderboard.entry import (
    SEEDS,
    TRACKS,
    Entry,
    Flow,
    Interval,
    Machine,
    Row,
    Statistics,
    SubmittedOptimizer,
    SubmittedRecipe,
    TaskStatistics,
)
from anchorbench.leaderboard.page import LIMITS
from anchorbench.model.gpt import ModelConfig
from anchorbench.model.initializers.rate import Rate

MODELS: dict[str, tuple[type[BaseModel], str]] = {
    "The entry": (Entry, ""),
    "`recipe`": (SubmittedRecipe, "As written in YAML; only `name` and `description` are required."),
    "`recipe.model`": (ModelConfig, ""),
    "`recipe.init`": (Rate.Config, ""),
    "`recipe.optimizer`": (SubmittedOptimizer, ""),
    "A row of `rows`": (Row, ""),
    "`statistics`": (Statistics, ""),
    "An item of `statistics.tasks`": (TaskStatistics, ""),
    "An interval": (Interval, ""),
    "An item of `flows`": (Flow, "An illustration; no statistic uses it."),
    "`machine`": (Machine, ""),
}
WORDS = {
    "schema_version": "Version of this format.",
    "kind": "Kind of part; the board does not accept other kinds yet.",
    "weight_decay": "Weight decay.",
    "beta1": "AdamW's decay rate of the first moment.",
    "beta2": "AdamW's decay rate of the second moment.",
    "eps": "AdamW's epsilon.",
    "start": "Warm-up starts at `lr * start`.",
    "authors": "Authors of the recipe.",
    "recipe": "The training recipe.",
    "statistics": "Computed from the rows.",
    "machine": "The machine that trained it.",
    "task": "Name of the task.",
    "variant": "Its variant.",
    "seed": "One of the seeds derived from the recipe's hash.",
    "held_out": "Mean over tasks of the accuracy on held-out groups.",
    "seen": "Mean over tasks of the accuracy on seen groups.",
    "flops_to_verdict": "Matmul FLOPs of the steps until each run's verdict was stable.",
    "tasks": "One per task, in the suite's order.",
    "value": "The estimate.",
    "low": "Lower bound.",
    "high": "Upper bound.",
    "python": "Version.",
    "cores": "Logical processors.",
    "threads": "PyTorch threads.",
    "accelerator": "Name of the GPU, or none.",
    "anchorbench": "Version.",
    "torch": "Version.",
    "numpy": "Version.",
}
"""Descriptions of fields that have no docstring in their class."""


def schema() -> dict[str, Any]:
    """The JSON schema of an entry, generated from the pydantic models, with a description for every field."""
    content = Entry.model_json_schema()
    for model, _ in MODELS.values():
        definition = content if model is Entry else content["$defs"][model.__name__]
        for field, form in definition["properties"].items():
            form["description"] = " ".join((form.get("description") or WORDS[field]).split())
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **content}


def schema_json() -> bytes:
    """The content of leaderboard/schema.json."""
    return (json.dumps(schema(), indent=1, sort_keys=True) + "\n").encode()


def readme() -> str:
    """The content of leaderboard/README.md."""
    introduction = INTRODUCTION.strip().format(seeds=SEEDS, size=MAX_ENTRY_BYTES // 1024, depth=MAX_DEPTH, limits=LIMITS)
    lines = [introduction, "", "## Tracks", ""]
    for name, track in TRACKS.items():
        suite = ", ".join(task.words for task in track.suite)
        lines += [
            f"- `{name}`: {suite}. At most {track.parameters:,} parameters, {track.products:.0e} matmul multiply-accumulates"
            f" over all runs, {track.steps:,} steps, {track.layers} layers, {track.heads} heads and {track.data_size:,}"
            f" training examples.",
        ]
    content = schema()
    lines += ["", "## The format of an entry", "", "Every field, as in `schema.json`. Unknown fields are rejected."]
    for title, (model, note) in MODELS.items():
        definition = content if model is Entry else content["$defs"][model.__name__]
        lines += ["", f"### {title}", "", *([note, ""] if note else []), "| field | type | meaning |", "|---|---|---|"]
        for field, form in definition["properties"].items():
            cells = (f"`{field}`", type_in_words(form), form["description"])
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def type_in_words(form: dict[str, Any]) -> str:
    """A field's type and bounds in words."""
    if "anyOf" in form:
        return " or ".join(map(type_in_words, form["anyOf"]))
    if "$ref" in form:
        name = str(form["$ref"]).rpartition("/")[2]
        return "[hits, n]" if name == "Share" else name
    if "enum" in form or "const" in form:
        return " or ".join(f"`{json.dumps(value)}`" for value in form.get("enum", [form.get("const")]))
    if form.get("type") == "array":
        if "prefixItems" in form:
            fixed = {type_in_words(item) for item in form["prefixItems"]}
            return "[hits, n]" if fixed == {"integer"} else f"list of {len(form['prefixItems'])}: {' or '.join(sorted(fixed))}"
        return f"list of {type_in_words(form['items'])}" + (f", at most {form['maxItems']}" if "maxItems" in form else "")
    bounds = [f"{words} {form[key]:,}" for key, words in BOUNDS.items() if key in form]
    if "maxLength" in form:
        bounds.append(f"{form.get('minLength', 0)} to {form['maxLength']} characters")
    if "pattern" in form:
        bounds.append(f"`{form['pattern']}`")
    return ", ".join([form.get("type", "object"), *bounds])


BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}
INTRODUCTION = """
# The leaderboard

Generated by `anchorbench leaderboard schema`; do not edit.

Which training recipe makes a transformer infer the rule rather than memorize the table? An entry is a recipe, not a
checkpoint: model config, initialization, optimizer, schedule. It is trained on every task of its track's suite with {seeds}
seeds per task, derived by SHA-256 from the recipe's training fields and the task's name. The score is the mean over tasks of the
share of runs with the inferential verdict.

    anchorbench leaderboard run RECIPE.yaml --out FOLDER      train the suite, write FOLDER/entry.json; a second call resumes
    anchorbench leaderboard validate ENTRY.json ...           check format, digest, completeness and statistics
    anchorbench leaderboard verify ENTRY.json --members 3     retrain some runs: does the claim stand?
    anchorbench leaderboard render                            entries/*.json -> index.html, table.md
    anchorbench leaderboard export ENTRY.json --out FOLDER    Hugging Face eval.yaml and .eval_results

To submit, add a recipe to `recipes/` and its `entry.json` under its own name to `entries/`. An entry is untrusted data:
at most {size} KiB of UTF-8 JSON, nested at most {depth} deep, without duplicate keys, infinities or unknown fields;
its digest, seeds, data fingerprints and verdicts must be those that this version derives, and its statistics must follow from its
rows. Nothing in it is executed, and no text in it is used as a path. Statistics, ranking and the test behind "better than" are
defined at the top of `anchorbench/leaderboard/statistics.py`.

## What the score does not show

{limits}

## What `verify` can and cannot see

`verify` retrains some of an entry's runs from the entry's own seeds. The claim stands if the 95% interval of the retrained
runs' inferential share overlaps the entry's, and if the runs do not agree with their claimed verdicts significantly less often than
four times in five (p < 0.01). Processors round differently, so exact agreement is not required.

- It can detect verdicts that this code does not give, if there are many of them and enough runs are retrained. An entry that claims
  100% where the truth is 58% is rejected in 35% of cases with 3 runs (the default), and always with 6 or more,
  which include each task.
- It cannot detect that a recipe is the luckiest of many: its seeds are reused, so its luck is reproduced exactly. The seeds
  cannot be set, but any change of a training field redraws them, even one without effect (a learning rate of 0.0010000001).
- It does not check the times and the steps to the verdict.
"""
