"""The format of an entry: its JSON schema, and leaderboard/README.md, which explains each field. Both are generated."""

import json
import math
from typing import Any

from pydantic import BaseModel

from anchorbench.leaderboard.check import MAX_DEPTH, MAX_ENTRY_BYTES
from anchorbench.leaderboard.drawn import DRAWN
from anchorbench.leaderboard.entry import Entry, Flow, Machine, Row
from anchorbench.leaderboard.page import LIMITS
from anchorbench.leaderboard.registration import CHAIN, Beacon
from anchorbench.leaderboard.submission import DIGITS, SubmittedRecipe
from anchorbench.leaderboard.suite import SEEDS, TRACKS
from anchorbench.leaderboard.verify import ALPHA, COMPARED, FRESH, LIE, row_power
from anchorbench.machine import Machine as Environment

MODELS: dict[str, tuple[type[BaseModel], str]] = {
    "The entry": (Entry, ""),
    "`recipe`": (
        SubmittedRecipe,
        "As written in YAML; only `name` and `description` are required. The parts and their fields are listed in docs/parts.md.",
    ),
    "`beacon`": (Beacon, ""),
    "A row of `rows`": (Row, ""),
    "An item of `flows`": (Flow, "An illustration; no statistic uses it."),
    "`machine`": (Machine, "Reported by the submitter."),
    "`environment`": (Environment, "Reported by the submitter."),
}
DEFINITIONS: dict[type[BaseModel], str] = {
    Machine: "anchorbench__leaderboard__entry__Machine",
    Environment: "anchorbench__machine__Machine",
}
"""Names in the schema of models whose class names are not unique."""
WORDS = {
    "schema_version": "Version of this format.",
    "authors": "Authors of the recipe.",
    "recipe": "The training recipe in canonical form.",
    "machine": "The machine that trained it.",
    "task": "Name of the task.",
    "variant": "Its variant.",
    "seed": "One of the seeds that registration and beacon give.",
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
        definition = content if model is Entry else content["$defs"][DEFINITIONS.get(model, model.__name__)]
        for field, form in definition["properties"].items():
            form["description"] = " ".join((form.get("description") or WORDS[field]).split())
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **content}


def schema_json() -> bytes:
    """The content of leaderboard/schema.json."""
    return (json.dumps(schema(), indent=1, sort_keys=True) + "\n").encode()


def readme() -> str:
    """The content of leaderboard/README.md."""
    members = SEEDS * len(TRACKS["laptop"].suite)
    introduction = INTRODUCTION.strip().format(
        seeds=SEEDS,
        size=MAX_ENTRY_BYTES // 1024,
        depth=MAX_DEPTH,
        limits=LIMITS,
        drawn=DRAWN,
        fresh_runs=FRESH,
        digits=DIGITS,
        chain=CHAIN,
        compared=COMPARED,
        lie=LIE,
        alpha=ALPHA,
        rows=math.ceil(LIE * members),
        all_rows=members,
        row_power=row_power([COMPARED] * len(TRACKS["laptop"].suite), LIE),
        tries=TRIES,
        **POWER,
        **GAIN,
    )
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
        definition = content if model is Entry else content["$defs"][DEFINITIONS.get(model, model.__name__)]
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
        return {"Share": "[hits, n]", DEFINITIONS[Environment]: "Environment"}.get(name, name.rpartition("__")[2])
    if "enum" in form or "const" in form:
        return " or ".join(f"`{json.dumps(value)}`" for value in form.get("enum", [form.get("const")]))
    if form.get("type") == "array":
        if "prefixItems" in form:
            fixed = {type_in_words(item) for item in form["prefixItems"]}
            return "[hits, n]" if fixed == {"integer"} else f"list of {len(form['prefixItems'])}: {' or '.join(sorted(fixed))}"
        return f"list of {type_in_words(form['items'])}" + (f", at most {form['maxItems']}" if "maxItems" in form else "")
    if isinstance(form.get("type"), list):
        return " or ".join(form["type"])
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
checkpoint. It is trained on every task of its track's suite with {seeds} seeds per task, which nobody can choose. The score is the
mean over tasks of the share of held-out answers that compose. [Why these tasks](../docs/suite.md).

    anchorbench leaderboard register RECIPE.yaml --name NAME     announce a recipe before its seeds exist
    anchorbench leaderboard run NAME.yaml --beacon FILE|VALUE    train the suite, write entry.json; a second call resumes
    anchorbench leaderboard validate ENTRY.json ...              check format, digest, seeds and rows
    anchorbench leaderboard verify ENTRY.json                    retrain some runs: does the claim stand?
    anchorbench leaderboard verify ENTRY.json --fresh            the same with new seeds: was it luck?
    anchorbench leaderboard render                               all files -> index.html, table.md
    anchorbench leaderboard export ENTRY.json --out FOLDER       Hugging Face eval.yaml and .eval_results

| folder | what it holds |
|---|---|
| `recipes/` | recipes as their authors wrote them |
| `registrations/` | recipes in canonical form, each with the beacon that will decide its seeds |
| `beacons/` | the beacons' values, with the day on which they came out and where to look them up |
| `entries/` | results |
| `reproductions/` | runs of an entry's recipe by others, with other seeds |

## Register, then reveal

1. A registration is the recipe in canonical form: numbers have {digits} significant digits, and fields without effect are left out.
   Learning rates, decay and initial weights are computed with and without a field; if none of them changes, the field goes.
   Recipes that train alike have one digest, and one registration. It announces a beacon that does not exist yet: by default a
   round of drand's quicknet one day later, which anyone can look up (the field `randomness` of
   `https://api.drand.sh/{chain}/public/ROUND`).
   The hash of a later commit will do if somebody else makes that commit. Offline, `--beacon` takes a file with the fields
   `name`, `value`, `time` and `source`.
2. Once the beacon is out, seed i of a task follows from the SHA-256 of digest, beacon, task and i. Member i holds out pair i
   modulo the number of pairs, the same for every recipe. The beacon also draws {drawn} variants of the composite task - anchors,
   offsets, keys, the held-out pair, the order and length of sequences - each trained once. No recipe was tuned on them: the score
   on them is a column of its own, beside the gap to the suite's composite task.
3. `run` trains with these seeds, and the entry records digest and beacon. `validate` derives the seeds again and refuses others;
   `render` also requires that registration and beacon are the board's own.

That a registration is older than its beacon is shown by the history of this repository, not by the files: look at it when merging.
The beacon of the first registrations is the commit that follows theirs, made by their own authors, who could have made it again:
who doubts these entries runs `verify --fresh`.
Registrations whose beacon is out and that have no result are listed on the board, and count as comparisons.

**What {tries} tries gain.** Of one training, the best of {tries} draws of seeds scores {low} to {high} points above the mean (gamma
0.5 and 0.8; runs on the composite task, one for each pair, are not drawn again), and in about one case of six it is 'better' than
an honest entry of the same training at p < 0.01. Seeds used to follow from the text of the recipe, so {tries} edits in the ninth
digit of the learning rate were {tries} draws that nobody saw. Now they give one registration, and one draw. Whoever registers
{tries} visibly different recipes gains the same points, but in public, and as all of them count as comparisons, the best one is
called better than the honest entry in at most 1% of cases.

## What is refused, and what cannot be

To submit, add the registration; when its beacon is out, add the beacon, and `entry.json` under any name to `entries/`. An
entry is untrusted data: at most {size} KiB of UTF-8 JSON, nested at most {depth} deep, without duplicate keys, infinities or
unknown fields; its digest, seeds, data fingerprints and verdicts must be those that this version derives. Nothing in it is
executed, and no text in it is used as a path. Statistics are computed from its rows, whatever it claims
(`anchorbench/leaderboard/statistics.py`).

- Entries that train alike stand in one line if their rows agree. If not, each is shown with what contradicts it and without a
  rank, until a reproduction on fresh seeds refutes one. File names decide nothing.
- Rows above the range of all other entries with the same shape of model are flagged: a reason to verify, not to refuse.
- **A consistent fabrication cannot be recognized by looking.** If rows are plausible and every digest and verdict follows, only
  retraining tells. Of 96 consistent fabrications in the tests, all of which are valid, 80 are found by any retrained row that was
  invented, and 7 by the test on another kind of machine; 2 are too small for that, and 7 change only times or machine, which
  nothing finds. The same holds for reproductions: `independent` counts files that say so. Their seeds follow from recipe and
  name, so that each name has one draw, and nobody's reproductions of an own entry count.

{limits}

## What `verify` can and cannot exclude

- Own seeds, where everything that bits depend on is the same ({compared} runs of each task by default): each row must be equal.
  If the score is {lie} above the truth, at least {rows} of {all_rows} rows are invented; one of them is found in {row_power:.0%}
  of cases. {compared} of the drawn tasks are compared as well.
- Own seeds on another kind of machine (all runs by default): the exact sign-flip test of the differences. It refuses such a claim
  in {flip} of cases, if one honest run in five comes out differently there.
- Fresh seeds (`--fresh`; {fresh_runs} runs for each that the entry has): the exact permutation test of claimed against new runs,
  within tasks and pairs. It assumes nothing about the shares. It refuses such a claim in {fresh} of cases, and is the only check
  that luck does not pass. It says nothing about the drawn tasks.

The tests refuse at p < {alpha} in either direction, which is 5% of honest claims: retrain more before calling it a lie. Powers
are those for the entries of this board, against the lie that is hardest to find: some runs compose nothing and were replaced.
Each call prints its own. No check covers times.
"""
POWER = {"flip": "83% to 99%", "fresh": "94% to 100%"}
"""Power of the default tests against LIE, over the entries of the board: simulated once, and checked in the tests."""
TRIES, GAIN = 100, {"low": 2.0, "high": 3.5}
"""Points that the best of TRIES draws of seeds scores above the mean: simulated in the tests."""
