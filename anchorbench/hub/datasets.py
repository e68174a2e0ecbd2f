"""Tasks as Hugging Face datasets: builds, verifies and pushes a folder that `load_dataset` and `AutoTokenizer` open offline.

    DIR/README.md                       the card: configs, features, and how the dataset was generated
    DIR/TASK-VARIANT/train.parquet      one file per split
    DIR/TASK-VARIANT/tokenizer.json     maps `text` to `tokens`, with tokenizer_config.json; also in DIR if one fits all configs
    DIR/TASK-VARIANT/anchorbench.json   task, version, fingerprint, seed

The same command writes the same bytes: no file contains a time, a path or a hostname.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
from pydantic import ValidationError

from anchorbench import __version__
from anchorbench.catalogue import find_tasks
from anchorbench.files import new_folder, open_plain, parse_yaml, read_bytes, read_json
from anchorbench.hub.card import Built, Manifest, card, data_files, features
from anchorbench.hub.upload import upload
from anchorbench.recipe import MAX_EXAMPLES
from anchorbench.task import NO_ANSWER, SPLITS, Answers, Examples, Split, Task, first_sentence, list_tasks, load_task

pc: Any = pyarrow.compute  # its functions are generated at import, invisible to type checkers
ROWS = 2**16
"""Rows written or checked at a time."""
CARD = "README.md"
MANIFEST = "anchorbench.json"
MAX_SMALL_BYTES = 2**20
MAX_HEADER_BYTES = 2**17
"""Maximum size of a card's YAML header; the one for all tasks takes a quarter of it."""
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


# ------------------------------------------------------------------------------------------------ writing


def build(
    name: str, out: Path, *, size: int | None = None, seed: int = 0, report: Callable[[Built], None] = lambda _: None
) -> list[Built]:
    """Writes the dataset of `name` ("all", a task, or TASK-VARIANT) to the folder `out`, which must be empty or not exist.

    `size` is the number of examples per split (default: the task's own sizes). Raises ValueError for an unknown name, an invalid
    size or seed, or a folder that cannot be written; in that case nothing is left behind.
    """
    tasks = find_tasks(name)
    if size is not None and not 1 <= size <= MAX_EXAMPLES:
        raise ValueError(f"size is {size}; allowed: 1 to {MAX_EXAMPLES}")
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed is {seed}; allowed: 0 to {2**63 - 1}")
    with new_folder(out, marker=CARD) as folder:
        built: list[Built] = []
        for task in tasks:
            built.append(_write_config(task, folder / task.full_name, size, seed))
            report(built[-1])
        common = _tokenizer_files(tasks)
        _write(common or {}, folder)
        options = ("" if size is None else f" --size {size}") + f" --seed {seed}"
        (folder / CARD).write_text(card(f"data build {name} --out DIR{options}", built, one_tokenizer=common is not None))
    return built


def _write_config(task: Task, folder: Path, size: int | None, seed: int) -> Built:
    folder.mkdir()
    schema = _schema(task)
    examples: dict[Split, int] = {split: task.sizes[split] if size is None else size for split in task.splits}
    arrow_bytes: dict[Split, int] = {}
    for split, n in examples.items():
        drawn = task.sample(split, n, seed)
        arrow_bytes[split] = 0
        with pq.ParquetWriter(folder / f"{split}.parquet", schema, compression="zstd") as writer:
            for start in range(0, n, ROWS):
                part = drawn[start : start + ROWS]
                table = _table(task, schema, part.tokens, part)
                arrow_bytes[split] += table.nbytes
                writer.write_table(table)
    _write(_tokenizer_files([task]) or {}, folder)
    manifest = Manifest(
        anchorbench=__version__,
        task=task.name,
        variant=task.variant,
        version=task.version,
        fingerprint=task.fingerprint,
        seed=seed,
        examples=examples,
    )
    _write({MANIFEST: manifest.model_dump_json(indent=2)}, folder)
    return Built(task, manifest, arrow_bytes, sum(path.stat().st_size for path in folder.glob("*.parquet")))


def _schema(task: Task) -> pa.Schema:
    return features(task).arrow_schema


def _table(task: Task, schema: pa.Schema, tokens: np.ndarray, answers: Examples | Answers) -> pa.Table:
    """`tokens [n, seq_len]` and their answers, as the dataset's columns."""
    words = pa.array([token.word for token in task.vocabulary])
    starts = np.arange(0, tokens.size + 1, task.seq_len, dtype=np.int32)
    columns: dict[str, Any] = {
        "text": pc.binary_join(pa.ListArray.from_arrays(starts, words.take(pa.array(tokens.reshape(-1)))), " "),
        "tokens": _lists(tokens.astype(np.int32)),
        "group": pa.array([group.name for group in task.groups]).take(_numbers(answers.group)),
        **{name: _numbers(getattr(answers, name)) for name in ("label", "key", "position")},
        **{f"foil_{name}": _numbers(values) for name, values in answers.foils.items()},
    }
    if answers.target is not None:
        columns["target"] = _lists(answers.target)
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _lists(values: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def _numbers(values: np.ndarray) -> pa.Array:
    return pa.array(values.astype(np.int32), mask=values == NO_ANSWER)


def _tokenizer_files(tasks: list[Task]) -> dict[str, str] | None:
    """File name -> content of a word-level tokenizer for the text of all of `tasks`, or None if a word would need two ids.

    Where variants use different words for an id ("a3" and "3"), the id is decoded to the first variant's word.
    """
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.normalizers import Replace, Sequence
    from tokenizers.pre_tokenizers import WhitespaceSplit

    ids: dict[str, int] = {}
    word_of: dict[int, str] = {}
    for task in tasks:
        for i, token in enumerate(task.vocabulary):
            if ids.setdefault(token.word, i) != i:
                return None
            word_of.setdefault(i, token.word)
    tokenizer: Any = Tokenizer(WordLevel({word: i for i, word in sorted(word_of.items())}, unk_token=""))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    others = {word: word_of[i] for word, i in ids.items() if word != word_of[i]}
    if others:
        tokenizer.normalizer = Sequence(
            [Replace(Regex(rf"(?<!\S){re.escape(word)}(?!\S)"), first) for word, first in sorted(others.items())]
        )
    config = {"tokenizer_class": "PreTrainedTokenizerFast"}
    return dict(zip(TOKENIZER, (tokenizer.to_str(pretty=True), json.dumps(config, indent=2)), strict=True))


def _write(files: dict[str, str], folder: Path) -> None:
    for name, content in files.items():
        (folder / name).write_text(content + "\n")


# ------------------------------------------------------------------------------------------------ verifying


def verify(folder: Path, *, rows: int = ROWS) -> list[Manifest]:
    """Recomputes everything in a dataset with `Task.answer`, `rows` at a time, and returns the manifests of its configs.

    The folder may come from an untrusted source: only regular files with the names above are read, as JSON and parquet. Raises
    ValueError naming the first file or row that is wrong. A sequence determines its split, so if every row is in the correct split,
    no sequence occurs in two splits.
    """
    manifests: list[Manifest] = []
    tasks: list[Task] = []
    for config in _configs(folder):
        manifest, task = _read_manifest(config)
        _check_tokenizer(config, [task])
        for split, n in manifest.examples.items():
            path, row = config / f"{split}.parquet", 0
            for table in _read_split(path, task, n, rows):
                _check_rows(path, row, table, task, split)
                row += len(table)
        manifests.append(manifest)
        tasks.append(task)
    if (folder / TOKENIZER[0]).exists():
        order = list_tasks()
        _check_tokenizer(folder, sorted(tasks, key=lambda task: order.index((task.name, task.variant))))
    _check_card(folder / CARD, {task.full_name: manifest for task, manifest in zip(tasks, manifests, strict=True)})
    return manifests


def _configs(folder: Path) -> list[Path]:
    try:
        found = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise ValueError(f"{folder} cannot be read: {error.strerror}") from None
    if not found:
        raise ValueError(f"{folder} is not a dataset: it holds no config folder")
    return found


def _read_manifest(config: Path) -> tuple[Manifest, Task]:
    path = config / MANIFEST
    try:
        manifest = Manifest.model_validate(read_json(path, most=MAX_SMALL_BYTES))
    except ValidationError as error:
        raise ValueError(f"{path} is damaged: {first_sentence(error)}") from None
    task = load_task(manifest.task, manifest.variant)
    for what, says, real in (
        ("version", manifest.version, task.version),
        ("fingerprint", manifest.fingerprint, task.fingerprint),
        ("splits", sorted(manifest.examples), sorted(task.splits)),
        ("folder", config.name, task.full_name),
    ):
        if says != real:
            raise ValueError(f"{path}: {what} is {says!r}; in anchorbench {__version__} it is {real!r}")
    return manifest, task


def _check_tokenizer(folder: Path, tasks: list[Task]) -> None:
    """Raises ValueError unless the tokenizer in `folder` is exactly the one that `build` writes for `tasks`."""
    right = _tokenizer_files(tasks) or {}
    for name in TOKENIZER:
        if read_json(folder / name, most=MAX_SMALL_BYTES) != (json.loads(right[name]) if name in right else None):
            raise ValueError(f"{folder / name} is not the tokenizer of {', '.join(each.full_name for each in tasks[:3])}")


def _check_card(path: Path, manifests: dict[str, Manifest]) -> None:
    """Raises ValueError unless the card points `load_dataset` to the files of each config, and to no others."""
    header = b"".join(read_bytes(path, most=MAX_SMALL_BYTES).split(b"---\n")[1:2])
    if len(header) > MAX_HEADER_BYTES:
        raise ValueError(f"{path} begins with {len(header)} bytes of YAML; allowed: at most {MAX_HEADER_BYTES}")
    content = parse_yaml(header, str(path))
    try:
        said = {config["config_name"]: config["data_files"] for config in content["configs"]}
    except (LookupError, TypeError):
        raise ValueError(f"{path} does not begin with the YAML that load_dataset reads") from None
    if said.keys() != manifests.keys():
        raise ValueError(f"{path} lists {len(said)} configs, not those of the {len(manifests)} folders beside it")
    for name, manifest in manifests.items():
        if said[name] != data_files(manifest):
            raise ValueError(f"{path} does not point load_dataset to the files of {name}")


def _read_split(path: Path, task: Task, n: int, rows: int) -> Iterator[pa.Table]:
    """A split's file, `rows` at a time. Raises ValueError unless it is complete and has the expected columns and `n` rows."""
    try:
        with open_plain(path) as plain, pq.ParquetFile(plain) as file:
            schema = _schema(task)
            if not file.schema_arrow.equals(schema):
                raise ValueError(f"{path} does not have the columns of {task.full_name}: {', '.join(schema.names)}")
            if file.metadata.num_rows != n:
                raise ValueError(f"{path} has {file.metadata.num_rows} rows; its {MANIFEST} says {n}")
            read = 0
            for batch in file.iter_batches(batch_size=rows):
                read += batch.num_rows
                yield pa.Table.from_batches([batch])
            if read != n:  # a damaged column may end early without an error
                raise ValueError(f"{path} is not a complete parquet file ({read} of {n} rows can be read)")
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a complete parquet file ({' '.join(str(error).split())[:200]})") from None


def _check_rows(path: Path, start: int, table: pa.Table, task: Task, split: Split) -> None:
    """Raises ValueError naming the first wrong row of `table`, which starts at row `start` of the file."""
    tokens = _matrix(table["tokens"], task.seq_len, NO_ANSWER).astype(np.int64)
    answers = task.answer(tokens)
    if answers.problems:
        row = min(answers.problems)
        _check_rows(path, start, table[:row], task, split)  # report an earlier wrong row first
        raise ValueError(f"{path}, row {start + row} is not an example of {task.full_name}: {answers.problems[row]}")

    expected = _table(task, _schema(task), tokens, answers)
    wrong: list[tuple[int, str]] = []  # first failing row of each check, and what is wrong with it

    def check(fails: Any, say: Callable[[int], str]) -> None:
        if fails.any():
            row = int(fails.argmax())
            wrong.append((row, say(row)))

    names = dict(enumerate(SPLITS))
    check(answers.split != SPLITS.index(split), lambda row: f"belongs to split {names.get(int(answers.split[row]))}, not {split}")
    random = answers.target
    for name in (name for name in expected.column_names if name != "tokens"):
        column, right = table[name], expected[name]
        if random is not None and name == "target":
            target = _matrix(column, task.vocab_size, np.nan)
            check(~np.isclose(target, random, rtol=0, atol=1e-12).all(1), lambda _: "target is not the task's distribution")
        elif random is not None and name == "label":
            label = column.fill_null(NO_ANSWER).to_numpy()
            possible = (label >= 0) & (label < task.vocab_size) & (random[np.arange(len(label)), label % task.vocab_size] > 0)
            check(~possible, lambda row, label=label: f"label is {label[row]}, which has probability 0")
        else:
            same = pc.or_(pc.fill_null(pc.equal(column, right), False), pc.and_(column.is_null(), right.is_null()))
            check(
                ~same.to_numpy(),
                lambda row, name=name, column=column, right=right: (
                    f"{name} is {column[row].as_py()!r:.200}; the task gives {right[row].as_py()!r}"
                ),
            )
    if wrong:
        row, what = min(wrong)
        raise ValueError(f"{path}, row {start + row}: {what}")


def _matrix(column: pa.ChunkedArray, width: int, missing: int | float) -> np.ndarray:
    """A column of lists as `[rows, width]`, with `missing` in place of nulls."""
    lists = column.combine_chunks()
    values = lists.flatten().fill_null(missing).to_numpy()  # omits lists that are null as a whole
    matrix = np.full((len(lists), width), missing, values.dtype)
    matrix[lists.is_valid().to_numpy(zero_copy_only=False)] = values.reshape(-1, width)
    return matrix


# ------------------------------------------------------------------------------------------------ the Hub


def uploads(folder: Path) -> list[Path]:
    """The files of a dataset that `push` uploads, once verified. Raises ValueError as `verify` does, or for a symlink."""
    verify(folder)
    names = [CARD, *(name for name in TOKENIZER if (folder / name).exists())]
    for config in _configs(folder):
        manifest, _ = _read_manifest(config)
        names += [f"{config.name}/{name}" for name in (MANIFEST, *TOKENIZER, *(f"{split}.parquet" for split in manifest.examples))]
    files = [folder / name for name in names]
    for file in files:
        if file.is_symlink() or (file.parent != folder and file.parent.is_symlink()) or not file.is_file():
            raise ValueError(f"{file} is missing, or a link, which could point to any file on this machine")
    return files


def push(folder: Path, repo: str) -> str:
    """Uploads a dataset to the Hub as `repo` ("OWNER/NAME"), which is created if needed; returns its URL.

    Raises ValueError with one sentence if the data are wrong, the network is unavailable or the token lacks permission.
    """
    return upload(folder, [file.relative_to(folder).as_posix() for file in uploads(folder)], repo, "dataset")
