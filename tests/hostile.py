"""Entries and recipes as a stranger might send them, each with a part of the sentence that refuses it; and honest ones to compare.

A case changes a valid entry's content and seals it again, so that its digest is not what is wrong with it.
"""

import copy
import functools
import gzip
import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from anchorbench.leaderboard.board import Board, assemble
from anchorbench.leaderboard.check import MAX_ENTRY_BYTES, asked
from anchorbench.leaderboard.entry import Entry, Flow, Machine, Row, flow_rows
from anchorbench.leaderboard.registration import Beacon, Registry, register
from anchorbench.leaderboard.submission import SubmittedRecipe, canonical, training_digest
from anchorbench.leaderboard.suite import LAPTOP_SUITE, SEEDS, SuiteTask
from anchorbench.machine import Machine as Environment
from anchorbench.verdict import Share, composition_of

BEACON = Beacon(name="dice", value="0123456789abcdef" * 4, time="2026-12-02T08:00Z", source="thrown on a table")
FIRST, SECOND, *_, LAST = (task.name for task in LAPTOP_SUITE)
RUNS = SEEDS * len(LAPTOP_SUITE)
ENVIRONMENT = Environment(
    gradient="native (g++ 12 AVX2)",
    precision="fp32",
    cpu="A processor",
    capability="AVX2",
    threads=2,
    blas="MKL 2024.2",
    gpu="none",
    driver="none",
    system="Linux x86_64",
    python="3.12.1",
    torch="2.13.0",
    numpy="2.4.6",
    anchorbench="0.1.0",
)
MACHINE = Machine(
    python="3.12.1",
    machine="x86_64",
    cores=2,
    threads="2",
    accelerator="none",
    anchorbench="0.1.0",
    torch="2.13.0",
    numpy="2.4.6",
    reference_seconds=12.5,
)


def honest_entry(
    name: str = "Honest",
    *,
    inferential: int = 3,
    description: str = "As written by hand.",
    track: str = "laptop",
    beacon: Beacon = BEACON,
    shift: int = 0,
    **fields: Any,
) -> Entry:
    """A valid entry that no one trained: of each task, so many members compose, one is underfit, and the others memorize.

    The name is not checked: what is shown has to stand any. `shift` takes hits off every share that composes.
    """
    recipe = SubmittedRecipe.model_validate(
        {"name": "Any", "description": description, "track": track, "steps": 600, "precision": "fp32", **fields}
    )
    recipe = canonical(recipe).model_copy(update={"name": name})
    blank = Entry.model_construct(recipe=recipe, registration=training_digest(recipe), beacon=beacon)

    row_of = functools.partial(honest_row, recipe, inferential=inferential, shift=shift)
    rows = [row_of(task, number, seed) for task in recipe.suite for number, seed in enumerate(blank.seeds(task))]
    return Entry.sealed(
        registration=blank.registration,
        beacon=beacon,
        recipe=recipe,
        rows=tuple(rows),
        drawn=tuple(row_of(task, number, seed) for number, (task, seed) in enumerate(blank.drawn_runs)),
        flows=tuple(even_flow(recipe, rows, number) for number in flow_rows(recipe, rows)),
        machine=MACHINE,
        environment=ENVIRONMENT,
        git=None,
    )


def honest_row(recipe: SubmittedRecipe, task: SuiteTask, number: int, seed: int, *, inferential: int, shift: int = 0) -> Row:
    """Run `number` of a task: the first ones compose, the sixth is underfit, and the others memorize."""
    run = recipe.recipe(task, seed)
    loaded = run.load_task()
    counts = asked(loaded, run)
    hits = dict(counts)
    if number >= inferential:
        hits["composes"] //= 10
    if number == SEEDS - 1 > inferential:
        hits |= {field: counts[field] // 2 for field in ("accuracy_train", "accuracy_iid")}
    hits["composes"] = max(0, hits["composes"] - shift)
    shares = {field: Share(hits[field], n) for field, n in counts.items()}
    content = {"task": task.task, "variant": task.variant, "seed": seed, "fingerprint": loaded.fingerprint, **shares}
    row = Row(**content, verdict="underfit", steps=run.steps, settled=1 + run.steps // (number + 2), seconds=2.5 + number / 8)
    return judged(row)


def judged(row: Row) -> Row:
    """The row with the verdict that its shares give."""
    return row.model_copy(update={"verdict": composition_of(row.accuracy_train.value, row.composes.interval)})


def board_of(*entries: Entry, reproductions: Any = (), folder: Path = Path("no such folder")) -> Board:
    """The board of valid entries, as if their registrations had been checked."""
    return assemble(entries, reproductions, Registry(folder))


def written(board: Path, *entries: Entry) -> Path:
    """A board's folder with these entries, their registrations, and the beacon."""
    for folder in ("entries", "registrations", "beacons"):
        (board / folder).mkdir(parents=True, exist_ok=True)
    (board / "beacons" / "dice.yaml").write_text(yaml.safe_dump(BEACON.model_dump()))
    for entry in entries:
        registered = register(entry.recipe, BEACON.name, datetime(2026, 12, 1, tzinfo=UTC))
        (board / "registrations" / f"{registered.digest[:8]}.yaml").write_bytes(registered.to_yaml())
        (board / "entries" / f"{entry.digest[:8]}.json").write_bytes(entry.to_json())
    return board


def even_flow(recipe: SubmittedRecipe, rows: list[Row], number: int) -> Flow:
    """Every position reads evenly from itself and all before."""
    seq = recipe.recipe(recipe.suite[number // SEEDS], rows[number].seed).load_task().seq_len
    layer = tuple((round(100 / (i + 1)),) * (i + 1) for i in range(seq))
    return Flow(row=number, attention=(layer,) * recipe.model.n_layer)


@functools.cache
def _honest_content() -> dict[str, Any]:
    return json.loads(honest_entry().to_json())


def sealed(content: dict[str, Any], **dumps: Any) -> bytes:
    """The content as a file with the digest that it should have."""
    rest = {key: value for key, value in content.items() if key != "digest"}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    return json.dumps(rest | {"digest": digest}, **dumps).encode("utf-8", "surrogatepass")


def changed(*path: str | int, to: Any) -> Callable[[], bytes]:
    """The honest entry with the value at `path` replaced."""

    def make() -> bytes:
        content = copy.deepcopy(_honest_content())
        inner: Any = content
        for part in path[:-1]:
            inner = inner[part]
        inner[path[-1]] = to
        return sealed(content)

    return make


def edited(edit: Callable[[dict[str, Any]], object]) -> Callable[[], bytes]:
    """The honest entry after `edit` of its content."""

    def make() -> bytes:
        content = copy.deepcopy(_honest_content())
        edit(content)
        return sealed(content)

    return make


def replaced(old: bytes, new: bytes) -> Callable[[], bytes]:
    """The honest entry's bytes with the first `old` replaced, as no JSON writer would."""

    def make() -> bytes:
        data = sealed(_honest_content())
        if old not in data:
            raise ValueError(f"{old!r} is not in the entry")
        return data.replace(old, new, 1)

    return make


def _seal_name(name: str) -> Callable[[], bytes]:
    return changed("recipe", "name", to=name)


def _flip_first_verdict(content: dict[str, Any]) -> None:
    content["rows"][SEEDS - 1]["verdict"] = "inferential"


def _own_seeds(content: dict[str, Any]) -> None:
    for row in content["rows"]:
        row["seed"] += 1


def _best_of_more(content: dict[str, Any]) -> None:
    content["rows"].insert(SEEDS, copy.deepcopy(content["rows"][SEEDS - 1]))


def _swap_rows(content: dict[str, Any]) -> None:
    content["rows"][0], content["rows"][1] = content["rows"][1], content["rows"][0]


def _other_recipe(content: dict[str, Any]) -> None:
    content["recipe"]["optimizer"]["lr"] = 0.002


def _nested(depth: int) -> bytes:
    return b'{"recipe": ' * depth + b"1" + b"}" * depth


# Name -> (how it is made, a part of the sentence that refuses it).
ENTRIES: dict[str, tuple[Callable[[], bytes], str]] = {
    # Not a file of ours at all
    "empty": (lambda: b"", "is not JSON: Expecting value"),
    "white space": (lambda: b" \n", "is not JSON"),
    "half a file": (lambda: sealed(_honest_content())[:5000], "is not JSON"),
    "two entries": (lambda: sealed(_honest_content()) * 2, "is not JSON: Extra data"),
    "a list": (lambda: b"[" + sealed(_honest_content()) + b"]", "is not a JSON object"),
    "a string": (lambda: b'"entry"', "is not a JSON object"),
    "null": (lambda: b"null", "is not a JSON object"),
    "gzip": (lambda: gzip.compress(sealed(_honest_content())), "is not UTF-8: byte 1 is 0x8b"),
    "a pickle": (lambda: b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00", "is not UTF-8: byte 0 is 0x80"),
    "UTF-16": (lambda: sealed(_honest_content()).decode().encode("utf-16"), "is not UTF-8: byte 0 is 0xff"),
    "byte order mark": (lambda: b"\xef\xbb\xbf" + sealed(_honest_content()), "is not JSON: Unexpected UTF-8 BOM"),
    "broken UTF-8": (replaced(b"Honest", b"Hon\xc3\x28est"), "is not UTF-8"),
    "overlong UTF-8": (replaced(b"Honest", b"Hon\xc0\xafest"), "is not UTF-8"),
    "a raw newline in a name": (replaced(b"Honest", b"Hon\nest"), "is not JSON: Invalid control character"),
    "a comment": (replaced(b"{", b"{ /* best */ "), "is not JSON"),
    "a trailing comma": (replaced(b'"git": null', b'"git": null,'), "is not JSON"),
    "single quotes": (replaced(b'"recipe"', b"'recipe'"), "is not JSON"),
    "too large": (lambda: sealed(_honest_content()) + b" " * MAX_ENTRY_BYTES, f"at most {MAX_ENTRY_BYTES}"),
    "nested 9 deep": (lambda: _nested(9), "nests more than 8 deep"),
    "nested 10,000 deep": (lambda: _nested(10_000), "nests more than 8 deep"),
    "lists nested 60,000 deep": (lambda: b"[" * 60_000 + b"]" * 60_000, "nests more than 8 deep"),
    "a string of escaped quotes without end": (lambda: b'"' + b'\\"' * 60_000, "is not JSON: Unterminated string"),
    "a backslash at the end": (lambda: b'"' + b'\\"' * 60_000 + b"\\", "is not JSON"),
    "brackets in a string": (changed("recipe", "name", to="[{" * 30 + '"'), "at most 60 characters"),
    # JSON that readers understand in different ways
    "a key twice": (replaced(b'"git": null', b'"git": null, "git": null'), "key 'git' is repeated"),
    "an inner key twice": (replaced(b'"seed": ', b'"seed": 1, "seed": '), "key 'seed' is repeated"),
    "an escaped key twice": (replaced(b'"git": null', b'"git": null, "g\\u0069t": null'), "key 'git' is repeated"),
    "NaN": (replaced(b'"seconds": 2.5', b'"seconds": NaN'), "NaN is not a JSON number"),
    "Infinity": (replaced(b'"seconds": 2.5', b'"seconds": Infinity'), "Infinity is not a JSON number"),
    "-Infinity": (replaced(b'"seconds": 2.5', b'"seconds": -Infinity'), "-Infinity is not a JSON number"),
    "1e999": (replaced(b'"seconds": 2.5', b'"seconds": 1e999'), "1e999 is too large"),
    "a number of 5,000 digits": (replaced(b'"seconds": 2.5', b'"seconds": ' + b"9" * 5000), "has 5000 characters"),
    "a fraction of 5,000 digits": (replaced(b'"seconds": 2.5', b'"seconds": 2.' + b"5" * 4998), "has 5000 characters"),
    "a leading zero": (replaced(b'"schema_version": 3', b'"schema_version": 03'), "is not JSON"),
    "a hexadecimal number": (replaced(b'"schema_version": 3', b'"schema_version": 0x3'), "is not JSON"),
    # The schema
    "an object without fields": (lambda: b"{}", "the field recipe is missing"),
    "another version": (changed("schema_version", to=2), "schema_version is 2"),
    "an unknown field": (changed("score", to=1.0), "unknown field 'score'"),
    "an unknown inner field": (changed("recipe", "optimizer", "nesterov", to=True), "unknown field 'recipe.optimizer.nesterov'"),
    "a prototype": (changed("__proto__", to={"rank": 1}), "unknown field '__proto__'"),
    "a lone surrogate as key": (changed("\ud800", to=1), "unpaired surrogate"),
    "a missing field": (edited(lambda content: content.pop("machine")), "the field machine is missing"),
    "a recipe's own task": (changed("recipe", "task", to="identity"), "unknown field 'recipe.task'"),
    "a recipe's own seed": (changed("recipe", "seed", to=7), "unknown field 'recipe.seed'"),
    "true for a number": (changed("rows", 0, "steps", to=True), "rows.0.steps is True"),
    "a string for a number": (changed("rows", 0, "seconds", to="2.5"), "rows.0.seconds is '2.5'"),
    "a fraction for a count": (changed("rows", 0, "accuracy_iid", to=[999.5, 1000]), "valid integer"),
    "a list for a name": (changed("recipe", "name", to=["a"]), "recipe.name is ['a']"),
    "null for rows": (changed("rows", to=None), "rows is None"),
    "an object for rows": (changed("rows", to={"length": 48}), "rows is {'length': 48}"),
    "three numbers for a share": (changed("rows", 0, "composes", to=[1, 2, 3]), "rows.0.composes"),
    "201 rows": (edited(lambda content: content.update(rows=content["rows"][:1] * 201)), "at most 200 items"),
    "a path for a commit": (changed("git", to="../../etc/passwd"), "git is '../../etc/passwd'"),
    "negative seconds": (changed("rows", 0, "seconds", to=-1.0), "rows.0.seconds is -1.0"),
    "a huge seed": (changed("rows", 0, "seed", to=2**31), "rows.0.seed is 2147483648"),
    "a fingerprint in words": (changed("rows", 0, "fingerprint", to="javascript:alert"), "rows.0.fingerprint is"),
    # Texts
    "an empty name": (_seal_name(""), "recipe.name is ''"),
    "an over-long name": (_seal_name("x" * 61), "at most 60 characters"),
    "an over-long description": (changed("recipe", "description", to="x" * 401), "at most 400 characters"),
    "a right-to-left override": (_seal_name("Honest \u202egnp.exe"), "U+202E"),
    "a zero-width space": (_seal_name("Hon\u200best"), "U+200B"),
    "a blank letter": (_seal_name("\u3164"), "U+3164"),
    "a blank pattern": (_seal_name("\u2800"), "U+2800"),
    "a null character": (_seal_name("Hon\x00est"), "U+0000"),
    "an escape sequence": (_seal_name("\x1b[31mHonest"), "U+001B"),
    "a line separator": (_seal_name("Hon\u2028est"), "U+2028"),
    "a private character": (_seal_name("Hon\ue000est"), "U+E000"),
    "a lone surrogate": (_seal_name("Hon\ud800est"), "unpaired surrogate"),
    "stacked marks": (_seal_name("H" + "\u0335\u0322\u0361" * 9), "stacks three marks"),
    "a mark before a letter": (_seal_name("\u0301Honest"), "begins with '\u0301'"),
    "marks alone": (_seal_name("\u0301\u0302"), "begins with"),
    "a rank": (_seal_name("1. gamma 0.8: 100%"), "holds ':'"),
    "a number first": (_seal_name("1. gamma 0.8"), "begins with '1'"),
    "a share": (_seal_name("gamma 0.8 100%"), "holds '%'"),
    "a circled digit": (_seal_name("gamma \u2460"), "holds '\u2460'"),
    "two spaces": (_seal_name("gamma  0.8"), "has no letters in one word"),
    "a wide space": (_seal_name("gamma\u30000.8"), "holds '\\u3000'"),
    "letters of two scripts": (_seal_name("g\u0430mma 0.8"), "has CYRILLIC and LATIN letters in one word"),
    "markup": (_seal_name("<b>gamma</b>"), "holds '<'"),
    "an author who is a column": (changed("recipe", "authors", to=["| 100% |"]), "holds '|'"),
    "a script as version": (changed("machine", "torch", to="<script>alert(1)</script>" * 3), "at most 60 characters"),
    "a script as task": (changed("rows", 0, "task", to="<script>alert(1)</script>"), "row 0 is of '<script>alert(1)</script>/"),
    "a script as verdict": (changed("rows", 0, "verdict", to="<script>"), "rows.0.verdict is '<script>'"),
    "21 authors": (changed("recipe", "authors", to=["A"] * 21), "at most 20 items"),
    # Numbers out of bounds, and recipes out of their budget
    "a hundred billion parameters": (changed("recipe", "model", "d_model", to=65_536), "parameters; allowed"),
    "a width of 10 ** 12": (changed("recipe", "model", "d_model", to=10**12), "recipe.model.d_model is 1000000000000"),
    "200 layers": (changed("recipe", "model", "n_layer", to=200), "n_layer is 200"),
    "a million steps": (changed("recipe", "steps", to=1_000_000), "steps is 1000000"),
    "a batch of 65,536": (changed("recipe", "batch", to=65_536), "matmul MACs; allowed"),
    "no batch": (changed("recipe", "batch", to=0), "recipe.batch is 0"),
    "a warm-up longer than training": (changed("recipe", "optimizer", "warmup", to=601), "warmup is 601 steps"),
    "an unknown track": (changed("recipe", "track", to="cluster"), "recipe.track is 'cluster'"),
    "a precision that was not used": (changed("recipe", "precision", to="auto"), "recipe.precision is 'auto'"),
    # Digest
    "a digest in words": (lambda: json.dumps(_honest_content() | {"digest": "trust me"}).encode(), "digest is 'trust me'"),
    "a digest in capitals": (
        lambda: json.dumps(_honest_content() | {"digest": _honest_content()["digest"].upper()}).encode(),
        "digest is '",
    ),
    "another entry's digest": (
        lambda: json.dumps(_honest_content() | {"digest": "0" * 64}).encode(),
        "the digest is 0000000000000000",
    ),
    "a changed number": (replaced(b'"reference_seconds": 12.5', b'"reference_seconds": 99.5'), "the digest is"),
    # Rows that are not the suite's
    "a missing task": (
        edited(lambda content: content.update(rows=content["rows"][SEEDS:])),
        f"row 0 is of '{SECOND}'",
    ),
    "a missing member": (edited(lambda content: content["rows"].pop()), f"row {RUNS - 1} of {LAST}, seed"),
    "no rows": (changed("rows", to=[]), f"row 0 of {FIRST}, seed"),
    "a member too many": (edited(_best_of_more), f"row {SEEDS} is of"),
    "a row too many": (edited(lambda content: content["rows"].append(content["rows"][0])), f"has {RUNS + 1} rows"),
    "chosen seeds": (edited(_own_seeds), "registration and beacon give"),
    "members in another order": (edited(_swap_rows), "registration and beacon give"),
    "another recipe's rows": (edited(_other_recipe), "the recipe gives"),
    "another task's data": (changed("rows", 0, "fingerprint", to="0" * 16), "the task of this version has"),
    "more steps than the recipe": (changed("rows", 0, "steps", to=601), "row 0 has 601 steps"),
    "fewer steps than the recipe": (changed("rows", 0, "steps", to=1), "row 0 has 1 steps; the recipe has 600"),
    "no time on the reference": (changed("machine", "reference_seconds", to=1e-300), "machine.reference_seconds is 1e-300"),
    "no time for training": (changed("rows", 0, "seconds", to=5e-324), "rows.0.seconds is 5e-324"),
    "settled after the end": (changed("rows", 0, "settled", to=601), "row 0 is settled at step 601"),
    # Counts that no evaluation gives
    "more hits than answers": (changed("rows", 0, "composes", to=[1001, 1000]), "is 1001 of 1000"),
    "negative hits": (changed("rows", 0, "composes", to=[-1, 1000]), "rows.0.composes.0 is -1"),
    "a share of nothing": (changed("rows", 0, "composes", to=[0, 0]), "is 0 of 0"),
    "few answers": (changed("rows", 0, "composes", to=[10, 10]), "the task asks for 1000"),
    "an answer that no task asks": (changed("rows", 0, "symmetric", to=[0, 100]), "unknown field 'rows.0.symmetric'"),
    "a share left out": (changed("rows", 0, "composes", to=None), "rows.0.composes is None"),
    # Claims that do not follow
    "a verdict that the shares do not give": (
        edited(_flip_first_verdict),
        f"row {SEEDS - 1} has verdict 'inferential'; its shares give",
    ),
    "statistics, where they are computed": (changed("statistics", to={"score": 1.0}), "unknown field 'statistics'"),
    # Registrations and beacons
    "no registration": (changed("registration", to=None), "registration is None"),
    "no beacon": (changed("beacon", to=None), "beacon is None"),
    "a beacon left out": (edited(lambda content: content.pop("beacon")), "the field beacon is missing"),
    "another registration": (changed("registration", to="0" * 64), "the registration is 0000000000000000"),
    "another beacon": (changed("beacon", "value", to="f" * 32), "registration and beacon give"),
    "a short beacon": (changed("beacon", "value", to="0"), "beacon.value is '0'"),
    "a beacon in capitals": (changed("beacon", "value", to="A" * 32), "beacon.value is 'AAAA"),
    "a beacon of no day": (changed("beacon", "time", to="2026-02-30T08:00Z"), "beacon.time"),
    "a beacon of no time": (changed("beacon", "time", to="2026-12-02"), "beacon.time"),
    # Drawn tasks
    "no drawn rows": (changed("drawn", to=[]), "drawn row 0 of composite/heldout-both, seed"),
    "drawn rows of the suite": (edited(lambda content: content.update(drawn=content["rows"][:8])), "drawn row 0 is of"),
    "a drawn row too many": (edited(lambda content: content["drawn"].append(content["drawn"][0])), "has 9 drawn rows"),
    "drawn tasks in another order": (edited(lambda content: content["drawn"].reverse()), "registration and beacon give"),
    "a drawn task of one's own": (changed("drawn", 3, "fingerprint", to="0" * 16), "drawn row 3 has fingerprint"),
    "more composed than asked": (changed("drawn", 0, "composes", to=[1001, 1001]), "the task asks for"),
    "a ninth digit": (changed("recipe", "optimizer", "lr", to=1.0000001e-3), "in canonical form"),
    "a field without effect": (changed("recipe", "optimizer", "decay_until", to=900), "in canonical form"),
    "a rate given twice": (changed("recipe", "init", "qk", to=0.5), "in canonical form"),
    # Pictures of other things
    "another member's attention": (
        changed("flows", 0, "row", to=1),
        f"flows are of rows [1, 3, {SEEDS - 1}]; the first of each verdict",
    ),
    "one member's attention twice": (
        edited(lambda content: content["flows"].insert(0, content["flows"][0])),
        f"flows are of rows [0, 0, 3, {SEEDS - 1}]",
    ),
    "the attention of a million": (changed("flows", 0, "row", to=10**6), "flows.0.row is 1000000"),
    "a layer too many": (edited(lambda content: content["flows"][0]["attention"].append([])), "is not 2 layers of 9 readers"),
    "a missing reader": (edited(lambda content: content["flows"][0]["attention"][1].pop()), "is not 2 layers of 9 readers"),
    "attention to what comes later": (
        edited(lambda content: content["flows"][0]["attention"][0][3].append(0)),
        "of reader 3 is not 4 percents",
    ),
    "more than all attention": (changed("flows", 0, "attention", 0, 8, 0, to=100), "of reader 8 is not 9 percents"),
    "101 percent": (changed("flows", 0, "attention", 0, 8, 0, to=101), "flows.0.attention.0.8.0 is 101"),
    "half a percent": (changed("flows", 0, "attention", 0, 8, 0, to=10.5), "valid integer"),
}

RECIPES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is not a mapping"),
    "a list": (b"- 1", "is not a mapping"),
    "no name": (b"description: x", "the field name is missing"),
    "a tag that calls": (b"name: !!python/object/apply:os.system [id]\ndescription: x", "YAML"),
    "an alias": (b"name: &a x\ndescription: *a", "are not allowed"),
    "a billion laughs": (b"a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]", "are not allowed"),
    "a merge": (b"base: &b {name: x}\n<<: *b", "are not allowed"),
    "a key twice": (b"name: x\nname: y\ndescription: z", "key 'name' is repeated"),
    "an inner key twice": (b"name: x\ndescription: z\noptimizer: {lr: 1, lr: 2}", "key 'lr' is repeated"),
    "a date": (b"name: 2026-01-01\ndescription: x", "begins with '2'"),
    "a number as name": (b"name: 5\ndescription: x", "name is 5"),
    "bytes": (b"name: !!binary aGVsbG8=\ndescription: x", "YAML"),
    "infinity": (b"name: x\ndescription: y\noptimizer: {lr: .inf}", "YAML"),
    "not a number": (b"name: x\ndescription: y\ninit: {gamma: .nan}", "YAML"),
    "a huge number": (b"name: x\ndescription: y\noptimizer: {lr: 1e400}", "YAML"),
    "true for a number": (b"name: x\ndescription: y\nsteps: true", "steps is True"),
    "two documents": (b"name: x\n---\nname: y", "YAML"),
    "broken UTF-8": (b"name: \xff\xfe\xfa", "is not UTF-8"),
    "control characters": (b"name: x\x07\ndescription: y", "YAML"),
    "a direction override": ("name: x\u202ey\ndescription: z".encode(), "U+202E"),
    "deep": (b"name: " + b"[" * 30_000, "YAML"),
    "9,000 keys": (b"".join(b"k%x:\n" % i for i in range(9_000)), "the field name is missing"),
    "a list as key": (b"? [a]\n: 1", "YAML"),
    "rates from a file": (b"name: x\ndescription: y\noptimizer: {kind: grafted-sgd, rates: /etc/passwd}", "not a file"),
    "its own task": (b"name: x\ndescription: y\ntask: identity", "unknown field 'task'"),
    "its own seed": (b"name: x\ndescription: y\nseed: 3", "unknown field 'seed'"),
    "out of budget": (b"name: x\ndescription: y\nmodel: {n_layer: 2, d_model: 4096}", "allowed in track laptop"),
}

# Text that the schema allows: what a page must not take for anything else.
MARKUP = (
    "<b>bold</b>",
    "<script>document.title='owned'</script>",
    '"><img src=x onerror=alert(1)>',
    "</td></tr></table><h1>First!</h1>",
    "</script><script>alert(1)</script>",
    "' onmouseover='alert(1)",
    "&lt;already&gt; &amp; escaped",
    "{{ 7 * 7 }} ${7*7} <%= 7 %>",
    "| a | Markdown | [link](javascript:alert(1)) |",
    "</details><details open>",
    "<!-- --> <![CDATA[ ]]> <svg/onload=alert(1)>",
    "=HYPERLINK(1) \u0645\u0631\u062d\u0628\u0627 \u4f60\u597d e\u0301",
)
