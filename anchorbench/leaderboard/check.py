"""Validates untrusted submissions: recipes in YAML and entries in JSON are complete and correct, or rejected with one sentence.

Nothing that is read is executed, and no text in it is used as a path. Checks run in a fixed order: size, encoding, depth, JSON,
schema, digest, registration and seeds, and the rows. Statistics are computed from the rows, whatever a file claims.
"""

from pathlib import Path

import numpy as np
from pydantic import ValidationError

from anchorbench.files import MAX_YAML_BYTES, parse_json, parse_yaml, read_bytes, visible
from anchorbench.leaderboard.entry import Entry, Row, digest_of, flow_rows
from anchorbench.leaderboard.registration import require_canonical
from anchorbench.leaderboard.submission import SubmittedRecipe
from anchorbench.recipe import Recipe
from anchorbench.seeds import stream_seed
from anchorbench.task import Task, first_sentence
from anchorbench.train.evaluation import FINAL_SIZE
from anchorbench.verdict import composition_of

MAX_ENTRY_BYTES = 2**17
"""For comparison, an entry of the gpu track takes 30 kB."""
MAX_DEPTH = 8
MAX_SENTENCE = 300
"""Maximum characters of an error message, which quotes the rejected value."""


def read_recipe(path: Path) -> SubmittedRecipe:
    """Reads a recipe from a YAML file. Raises ValueError with one sentence."""
    return parse_recipe_yaml(read_bytes(path, most=MAX_YAML_BYTES), str(path))


def parse_recipe_yaml(data: bytes, name: str = "the recipe") -> SubmittedRecipe:
    """Parses a recipe from YAML. Raises ValueError with one sentence."""
    content = parse_yaml(data, name)
    if not isinstance(content, dict):
        raise ValueError(f"{name} is not a mapping of fields; allowed: name, description, model, init, optimizer, ...")
    try:
        return SubmittedRecipe.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"{name}: {_sentence(error)}") from None


def read_entry(path: Path) -> Entry:
    """Reads and validates the entry in a file. Raises ValueError with one sentence that names the file."""
    data = read_bytes(path, most=MAX_ENTRY_BYTES)
    try:
        return validate_entry(data)
    except ValueError as refusal:
        raise ValueError(f"{path}: {refusal}") from None


def validate_entry(data: bytes) -> Entry:
    """Validates an entry from the file content `data`. Raises ValueError with one sentence for anything invalid."""
    if len(data) > MAX_ENTRY_BYTES:
        raise ValueError(f"the entry has {len(data)} bytes; allowed: at most {MAX_ENTRY_BYTES}")
    content = parse_json(data, "the entry", deepest=MAX_DEPTH)
    if not isinstance(content, dict):
        raise ValueError("the entry is not a JSON object; allowed: an object with an entry's fields")
    try:
        entry = Entry.model_validate(content)
    except ValidationError as error:
        raise ValueError(_sentence(error)) from None
    digest = digest_of(content)  # over the file's own fields: stays valid when a later version adds fields
    if entry.digest != digest:
        raise ValueError(f"the digest is {entry.digest[:16]}...; the entry's content gives {digest[:16]}...")
    if entry.recipe.precision == "auto":
        raise ValueError("recipe.precision is 'auto'; allowed in an entry: the precision that was used, 'fp32' or 'bf16'")
    require_canonical(entry.recipe, entry.registration)
    _require_complete(entry)
    _require_flows(entry)
    return entry


def _require_complete(entry: Entry) -> None:
    """Requires every task of the suite, exactly the seeds derived for it, and each row consistent with its task; and the same of
    the drawn tasks.
    """
    of_suite = [(task, seed) for task in entry.suite for seed in entry.seeds(task)]
    for what, rows, expected in (("row", entry.rows, of_suite), ("drawn row", entry.drawn, entry.drawn_runs)):
        for number, (task, seed) in enumerate(expected):
            where = f"{what} {number}"
            if number >= len(rows):
                raise ValueError(f"{where} of {task.name}, seed {seed}, is missing")
            row = rows[number]
            if (row.task, row.variant) != (task.task, task.variant):
                raise ValueError(
                    visible(f"{where} is of {row.task + '/' + row.variant!r}; allowed there: {task.name}", MAX_SENTENCE)
                )
            if row.seed != seed:
                raise ValueError(f"{where} has seed {row.seed}; registration and beacon give {seed}")
            require_row(where, row, entry.recipe.recipe(task, seed))
        if len(rows) > len(expected):
            raise ValueError(f"the entry has {len(rows)} {what}s; allowed: {len(expected)}")


def require_row(where: str, row: Row, recipe: Recipe) -> None:
    """Requires a row that the run of this recipe could have. Raises ValueError with one sentence."""
    task = recipe.load_task()
    if row.fingerprint != task.fingerprint:
        raise ValueError(f"{where} has fingerprint {row.fingerprint}; the task of this version has {task.fingerprint}")
    if row.steps != recipe.steps:
        raise ValueError(f"{where} has {row.steps} steps; the recipe has {recipe.steps}")
    if row.settled > row.steps:
        raise ValueError(f"{where} is settled at step {row.settled}; it has {row.steps}")
    for field, n in asked(task, recipe).items():
        share = getattr(row, field)
        if share.n != n:
            raise ValueError(f"{where} has {field} {list(share)}; the task asks for {n} such answers")
    verdict = composition_of(row.accuracy_train.value, row.composes.interval)
    if row.verdict != verdict:
        raise ValueError(f"{where} has verdict {row.verdict!r}; its shares give {verdict!r}")


def asked(task: Task, recipe: Recipe) -> dict[str, int]:
    """Number of answers that each share of a row counts, from the regenerated evaluation set."""
    key = (task.fingerprint, min(recipe.data_size, FINAL_SIZE), recipe.seeds.data)
    if key not in _ASKED:
        if len(_ASKED) > MAX_KNOWN:
            _ASKED.clear()
        _ASKED[key] = _count(task, key[1], stream_seed(key[2], "evaluation"))
    return dict(_ASKED[key])


_ASKED: dict[tuple[str, int, int], dict[str, int]] = {}
MAX_KNOWN = 10_000
"""Evaluation sets whose counts are remembered: a board's entries are read several times."""


def _count(task: Task, n_train: int, seed: int) -> dict[str, int]:
    return {
        "accuracy_train": n_train,
        "accuracy_iid": FINAL_SIZE if "iid" in task.splits else n_train,
        "composes": len(np.unique(task.sample("ood", FINAL_SIZE, seed).tokens, axis=0)),  # equal inputs count once
    }


def _require_flows(entry: Entry) -> None:
    """Requires flows of the right runs, with attention of the right shape and sums: the page draws them unchecked."""
    allowed, claimed = flow_rows(entry.recipe, entry.rows), [flow.row for flow in entry.flows]
    if claimed != [row for row in allowed if row in claimed]:  # diverged runs have no flow
        raise ValueError(f"flows are of rows {claimed}; the first of each verdict are {allowed}")
    for number, flow in enumerate(entry.flows):
        seq = entry.recipe.recipe(entry.task_of(flow.row), entry.rows[flow.row].seed).load_task().seq_len
        shape = (entry.recipe.model.n_layer, seq)
        if (len(flow.attention), *{len(layer) for layer in flow.attention}) != shape:
            raise ValueError(f"flows.{number}.attention is not {shape[0]} layers of {seq} readers")
        for layer in flow.attention:
            for reader, percents in enumerate(layer):
                if len(percents) != reader + 1 or abs(sum(percents) - 100) > len(percents) / 2:  # each is rounded
                    raise ValueError(f"flows.{number}.attention of reader {reader} is not {reader + 1} percents that sum to 100")


def _sentence(error: ValidationError) -> str:
    """The first problem; the reason comes before the quoted value, which may be long."""
    problem = error.errors()[0]
    sentence = first_sentence(error)
    where = ".".join(map(str, problem["loc"]))
    if problem["type"] == "missing":
        sentence = f"the field {where} is missing"
    elif len(sentence) > MAX_SENTENCE:
        sentence = f"{where}: {problem['msg'][0].lower()}{problem['msg'][1:]}, but it is {problem['input']!r}"
    return visible(sentence, MAX_SENTENCE)
