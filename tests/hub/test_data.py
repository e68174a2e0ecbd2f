"""Data sets: what `load_dataset` and `AutoTokenizer` give back, the same bytes each time, and every damage found and named."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, Cli, bytes_of, require_one_sentence
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from anchorbench import list_tasks, load_task
from anchorbench.catalogue import config_name, find_tasks
from anchorbench.hub import datasets as data
from anchorbench.hub.card import Built, card
from anchorbench.task import NO_ANSWER

TASKS = list_tasks()
SIZE = 40
BUILD_ALL = ("data", "build", "all", "--size", str(SIZE), "--seed", "3", "--out")
COMMAND = [sys.executable, "-c", "from anchorbench.cli.main import main; main()"]


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All tasks, `SIZE` examples in each split: read it, do not change it."""
    out = tmp_path_factory.mktemp("data") / "everything"
    data.build("all", out, size=SIZE, seed=3)
    return out


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two configurations, to be copied and damaged: one with all kinds of columns, one with a random answer."""
    out = tmp_path_factory.mktemp("data") / "whole"
    built = data.build("composite-conflict", out, size=SIZE)
    built += data.build("statistical", out.parent / "statistical", size=SIZE)
    (out.parent / "statistical" / "statistical-default").rename(out / "statistical-default")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (out / name).unlink()  # of the first one alone
    (out / "README.md").write_text(card("of both", built, one_tokenizer=False))
    return out


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def column(values: np.ndarray) -> list[int | None]:
    return [None if value == NO_ANSWER else int(value) for value in values]


def change(path: Path, name: str, row: int, value: object) -> None:
    """Sets one cell of a parquet file."""
    table = pq.read_table(path)
    values = table[name].to_pylist()
    values[row] = value
    at = table.schema.get_field_index(name)
    pq.write_table(table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type)), path)


def refused(folder: Path, *parts: str) -> None:
    """`verify` refuses the folder in one sentence that names each of `parts`."""
    with pytest.raises(ValueError) as caught:
        data.verify(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1_000
    for part in parts:
        assert part in message


# ------------------------------------------------------------------------------------------------ what is in a data set


@pytest.mark.parametrize(("name", "variant"), TASKS, ids=[f"{name}-{variant}" for name, variant in TASKS])
def test_the_files_hold_what_the_task_samples(everything, name, variant):
    task = load_task(name, variant)
    folder = everything / config_name(task)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert {path.stem for path in folder.glob("*.parquet")} == set(task.splits)
    for split in task.splits:
        examples = task.sample(split, SIZE, 3)
        rows = pq.read_table(folder / f"{split}.parquet").to_pydict()
        assert rows.pop("text") == task.text(examples.tokens)
        assert rows.pop("tokens") == examples.tokens.tolist()
        assert rows.pop("group") == [task.groups[i].name for i in examples.group]
        for field in ("label", "key", "position"):
            assert rows.pop(field) == column(getattr(examples, field))
        for foil, values in examples.foils.items():
            assert rows.pop(f"foil_{foil}") == column(values)
        if examples.target is not None:
            assert rows.pop("target") == examples.target.tolist()
        assert rows == {}
        for text, tokens in zip(task.text(examples.tokens), examples.tokens.tolist(), strict=True):
            assert tokenizer.encode(text).ids == tokens
            assert tokenizer.decode(tokens) == text


def test_load_dataset(everything, tmp_path):
    for name in ("composite-conflict", "statistical-default", "scan-simple"):
        (task,) = find_tasks(name)
        for split in task.splits:
            loaded = datasets.load_dataset(str(everything), name, split=split, cache_dir=str(tmp_path))
            examples = task.sample(split, SIZE, 3)
            assert loaded["tokens"][:] == examples.tokens.tolist()
            assert loaded["label"][:] == examples.label.tolist()
            assert loaded["key"][:] == column(examples.key)
            assert loaded.features["tokens"] == datasets.List(datasets.Value("int32"), length=task.seq_len)
            assert loaded.features["group"] == datasets.Value("string")
            torch_rows = loaded.with_format("torch")[:5]
            np.testing.assert_array_equal(torch_rows["tokens"].numpy(), examples.tokens[:5])
    assert loaded.info.config_name == "scan-simple"
    names = datasets.get_dataset_config_names(str(everything))
    assert sorted(names) == sorted(f"{name}-{variant}" for name, variant in TASKS)


@pytest.mark.parametrize("name", ["composite-conflict", "addition-most-first", "ontology-default"])
def test_auto_tokenizer(everything, name):
    rows = pq.read_table(everything / name / "train.parquet").to_pydict()
    for tokenizer in (AutoTokenizer.from_pretrained(everything / name), AutoTokenizer.from_pretrained(everything, subfolder=name)):
        assert tokenizer(rows["text"])["input_ids"] == rows["tokens"]
        assert tokenizer(rows["text"][0])["input_ids"] == rows["tokens"][0]
        assert tokenizer.decode(rows["tokens"][0]) == rows["text"][0]


@pytest.mark.parametrize("name", sorted(dict(TASKS)))
def test_one_tokenizer_for_all_variants_of_a_task(name, tmp_path):
    data.build(name, tmp_path / "out", size=5)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    data.verify(tmp_path / "out")
    for task in find_tasks(name):
        rows = pq.read_table(tmp_path / "out" / config_name(task) / "train.parquet").to_pydict()
        assert tokenizer(rows["text"])["input_ids"] == rows["tokens"]


def test_an_unknown_word_is_refused(everything):
    with pytest.raises(Exception, match="UNK"):
        AutoTokenizer.from_pretrained(everything / "composite-conflict")("20 a1 a5")


def test_the_card_says_how_it_was_made(everything):
    card = huggingface_hub.DatasetCard.load(everything / "README.md")
    assert card.data.license == "apache-2.0"
    assert {config["config_name"] for config in card.data.to_dict()["configs"]} == {f"{name}-{variant}" for name, variant in TASKS}
    assert "anchorbench data build all --out DIR --size 40 --seed 3" in card.text
    for task in find_tasks("all"):
        assert f"`{task.fingerprint}`" in card.text
    for info in card.data.to_dict()["dataset_info"]:
        columns = pq.read_schema(everything / info["config_name"] / "train.parquet").names
        assert [feature["name"] for feature in info["features"]] == columns
        assert all(split["num_examples"] == SIZE for split in info["splits"])


def test_the_code_of_the_card_runs(everything, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    code = (everything / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert code.count('PATH = "..."') == 1
    exec(code.replace('"..."', repr(str(everything))), {})  # noqa: S102 - our own card


@pytest.mark.parametrize(("name", "size"), [("composite-conflict", 70_000), ("random-permutations", None)])
def test_large_and_default_sizes(tmp_path, name, size):
    """More rows than are written at a time, and the sizes of the paper."""
    seen: list[Built] = []
    built = data.build(name, tmp_path / "out", size=size, report=seen.append)
    assert seen == built
    for manifest in data.verify(tmp_path / "out"):
        task = load_task(manifest.task, manifest.variant)
        assert manifest.examples == {split: size or task.sizes[split] for split in task.splits}
    rows = pq.read_table(tmp_path / "out" / config_name(built[0].task) / "train.parquet")["text"].to_pylist()
    assert rows == built[0].task.text(built[0].task.sample("train", size or 720, 0).tokens)


# ------------------------------------------------------------------------------------------------ the same bytes


def test_the_same_command_gives_the_same_bytes_in_another_process(everything, tmp_path):
    environment = os.environ | {"PYTHONHASHSEED": "77", "TZ": "Asia/Tokyo", "PYTHONPATH": str(ROOT)}
    again = tmp_path / "again"
    done = subprocess.run([*COMMAND, *BUILD_ALL, str(again)], env=environment, check=True, capture_output=True, text=True)
    assert bytes_of(again) == bytes_of(everything)
    assert not (again / "tokenizer.json").exists()  # "+" is 10 here and 12 there
    assert f'AutoTokenizer.from_pretrained("{again / "addition-least-first"}")' in done.stdout
    assert done.stderr == ""


def test_another_seed_gives_other_bytes(everything, tmp_path):
    data.build("composite-conflict", tmp_path / "out", size=SIZE, seed=4)
    other, same = bytes_of(tmp_path / "out" / "composite-conflict"), bytes_of(everything / "composite-conflict")
    assert {name for name in same if same[name] != other[name]} == {
        "anchorbench.json",
        *(f"{s}.parquet" for s in ("train", "iid", "ood")),
    }


# ------------------------------------------------------------------------------------------------ what cannot be written


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("compsite",), "did you mean 'composite'"),
        (("composite", "--size", "0"), "size is 0"),
        (("composite", "--size", "-3"), "size is -3"),
        (("composite", "--size", "many"), "--size"),
        (("composite", "--seed", "-1"), "seed is -1"),
    ],
)
def test_bad_values_are_one_sentence(cli: Cli, tmp_path, arguments, reason):
    outcome = cli("data", "build", *arguments, "--out", tmp_path / "out")
    assert outcome.code == 2
    assert reason in outcome.err
    require_one_sentence(outcome.err)
    assert list(tmp_path.iterdir()) == []


def test_no_folder_is_one_sentence(cli: Cli):
    outcome = cli("data", "build", "composite")
    assert outcome.code == 2
    require_one_sentence(outcome.err)


def test_folders_that_cannot_be_written_are_one_sentence(cli: Cli, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    before = bytes_of(tmp_path)
    for out in ("file", "full", "file/below", "\0"):
        outcome = cli("data", "build", "statistical", "--size", "1", "--out", tmp_path / out)
        assert outcome.code == 2
        require_one_sentence(outcome.err)
    assert bytes_of(tmp_path) == before


def test_an_empty_folder_is_filled(cli: Cli, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert cli("data", "build", "statistical", "--size", "1", "--out", ".").code == 0
    assert cli("data", "verify", tmp_path / "here").code == 0


def test_a_full_disk_leaves_nothing_behind(cli: Cli, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("anchorbench.hub.datasets._write", full)
    outcome = cli("data", "build", "statistical", "--size", "1", "--out", tmp_path / "out")
    assert outcome.code == 2
    assert "No space left on device" in outcome.err
    require_one_sentence(outcome.err)
    assert list(tmp_path.iterdir()) == []


def test_killed_while_building_nothing_half_written_is_in_the_folder(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [*COMMAND, "data", "build", "all", "--size", "20000", "--out", str(tmp_path / "out")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("addition-least-first")  # the first of many is written
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    data.build("statistical", tmp_path / "out", size=2)
    assert len(data.verify(tmp_path / "out")) == 1


# ------------------------------------------------------------------------------------------------ verify


def test_whole_data_are_right(everything, cli: Cli):
    outcome = cli("data", "verify", everything)
    rows = SIZE * sum(len(task.splits) for task in find_tasks("all"))
    assert (outcome.code, outcome.err) == (0, "")
    assert f"all {rows:,} rows of {len(TASKS)} configurations are right" in outcome.out


def test_data_that_were_saved_again_by_other_hands_are_right(copy, tmp_path):
    loaded = datasets.load_dataset("parquet", data_files=str(copy / "composite-conflict" / "ood.parquet"), cache_dir=str(tmp_path))
    loaded["train"].to_parquet(str(copy / "composite-conflict" / "ood.parquet"))
    data.verify(copy)


DAMAGES = [
    ("composite-conflict", "train", "label", 7, lambda value: value + 1),
    ("composite-conflict", "train", "label", 0, lambda _: None),
    ("composite-conflict", "train", "group", 39, lambda _: "(4,3)"),
    ("composite-conflict", "iid", "key", 5, lambda value: value - 1),
    ("composite-conflict", "iid", "key", 5, lambda _: None),
    ("composite-conflict", "iid", "position", 0, lambda value: value + 1),
    ("composite-conflict", "ood", "foil_symmetric", 11, lambda _: None),
    ("composite-conflict", "ood", "foil_symmetric", 11, lambda value: value + 4),
    ("composite-conflict", "train", "foil_symmetric", 2, lambda _: -1),
    ("composite-conflict", "train", "text", 3, lambda value: value.replace(" ", "  ")),
    ("composite-conflict", "train", "text", 3, lambda _: "\x1b[31m" * 10_000),
    ("composite-conflict", "train", "text", 3, lambda _: None),
    ("statistical-default", "train", "target", 4, lambda value: value[::-1]),
    ("statistical-default", "train", "target", 4, lambda _: None),
    ("statistical-default", "train", "target", 4, lambda value: [*value[:-1], None]),
    ("statistical-default", "iid", "label", 9, lambda _: 3),
    ("statistical-default", "iid", "label", 9, lambda _: 10**6),
    ("statistical-default", "iid", "label", 9, lambda _: None),
]


@pytest.mark.parametrize(("config", "split", "name", "row", "damage"), DAMAGES)
def test_a_wrong_cell_is_named(copy, config, split, name, row, damage):
    path = copy / config / f"{split}.parquet"
    change(path, name, row, damage(pq.read_table(path)[name][row].as_py()))
    refused(copy, f"{split}.parquet, row {row}: {name} is ")


@pytest.mark.parametrize("value", [-1, 120, 2**31 - 1, None])
def test_a_wrong_token_is_named(copy, value):
    path = copy / "composite-conflict" / "train.parquet"
    tokens = pq.read_table(path)["tokens"][6].as_py()
    change(path, "tokens", 6, [*tokens[:-1], value])
    refused(copy, "train.parquet, row 6 is not an example of composite-conflict")
    change(path, "tokens", 4, None)
    refused(copy, "train.parquet, row 4 is not an example of composite-conflict")


def test_the_first_wrong_row_is_named(copy):
    path = copy / "composite-conflict" / "train.parquet"
    for name, row, value in (("tokens", 30, [0] * 9), ("label", 20, 5), ("key", 25, 5)):
        change(path, name, row, value)
    refused(copy, "row 20: label is 5; by the task it is ")
    change(path, "tokens", 10, [0] * 9)
    refused(copy, "row 10 is not an example")
    change(path, "position", 3, 8)
    refused(copy, "row 3: position is 8")


def test_rows_are_counted_over_the_pieces_that_are_read(copy, monkeypatch):
    monkeypatch.setattr("anchorbench.hub.datasets.ROWS", 7)
    data.verify(copy)
    change(copy / "composite-conflict" / "train.parquet", "label", 23, 5)
    refused(copy, "row 23: label is 5")


def test_a_row_of_another_split_is_named(copy):
    folder = copy / "composite-conflict"
    train, iid = pq.read_table(folder / "train.parquet"), pq.read_table(folder / "iid.parquet")
    pq.write_table(pa.concat_tables([train[:12], iid[:1], train[13:]]), folder / "train.parquet")
    refused(copy, "train.parquet, row 12: belongs to split iid, not train")


@settings(max_examples=40, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(
    name=st.sampled_from(["label", "key", "position", "foil_inferential", "foil_symmetric"]),
    row=st.integers(0, SIZE - 1),
    value=st.one_of(st.none(), st.integers(-(2**31), 2**31 - 1)),
)
def test_no_other_number_is_taken_for_right(whole, name, row, value):
    (task,) = find_tasks("composite-conflict")
    table = pq.read_table(whole / "composite-conflict" / "ood.parquet")
    values = table[name].to_pylist()
    right, values[row] = values[row], value
    damaged = table.set_column(table.schema.get_field_index(name), name, pa.array(values, pa.int32()))
    if value == right:
        data._check_rows(Path("x"), 0, damaged, task, "ood")
    else:
        with pytest.raises(ValueError, match=f"x, row {row}: {name} is {value}"):
            data._check_rows(Path("x"), 0, damaged, task, "ood")


def test_rows_and_columns_must_be_those_that_are_said(copy):
    path = copy / "composite-conflict" / "iid.parquet"
    table = pq.read_table(path)
    pq.write_table(table[:-1], path)
    refused(copy, "iid.parquet has 39 rows; its anchorbench.json says 40")
    pq.write_table(table.drop_columns(["foil_symmetric"]), path)
    refused(copy, "iid.parquet does not have the columns of composite-conflict")
    pq.write_table(table.set_column(0, "text", pa.array([b"x"] * SIZE)), path)
    refused(copy, "iid.parquet does not have the columns of composite-conflict")


@pytest.mark.parametrize("keep", [0, 3, 100, 0.5, 0.99])
def test_a_truncated_file_is_named(copy, keep):
    path = copy / "composite-conflict" / "ood.parquet"
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    refused(copy, "ood.parquet is not a complete parquet file")


def test_a_flipped_byte_is_never_an_answer(copy):
    """Damage is found, or it changed nothing that is read: never a traceback of another kind."""
    path = copy / "composite-conflict" / "ood.parquet"
    content = path.read_bytes()
    table = pq.read_table(path)
    found = 0
    for at in np.random.default_rng(0).integers(len(content), size=40).tolist():
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :])
        try:
            data.verify(copy)
        except ValueError as error:
            found += 1
            assert "ood.parquet" in str(error)
            assert "\n" not in str(error)
        else:
            assert pq.read_table(path).equals(table)
    assert found > 10


@pytest.mark.parametrize("name", ["anchorbench.json", "tokenizer.json", "train.parquet"])
def test_a_missing_file_is_named(copy, name):
    (copy / "composite-conflict" / name).unlink()
    refused(copy, str(copy / "composite-conflict" / name), " is missing")


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("fingerprint", "0" * 16, "fingerprint is '0000000000000000'"),
        ("version", 7, "version is 7"),
        ("task", "../../etc", "unknown task '../../etc'"),
        ("variant", "conflicts", "did you mean 'conflict'"),
        ("variant", "heldout-both", "fingerprint"),
        ("examples", {"train": 40, "iid": 40}, "splits is ['iid', 'train']"),
        ("examples", {"train": 40, "iid": 40, "ood": 40, "../x": 1}, "anchorbench.json is damaged"),
        ("examples", {"train": -1, "iid": 40, "ood": 40}, "examples.train is -1"),
        ("seed", "now", "seed is 'now'"),
        ("more", 1, "unknown field 'more'"),
    ],
)
def test_a_manifest_that_lies_is_refused(copy, field, value, reason):
    path = copy / "composite-conflict" / "anchorbench.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    refused(copy, reason)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b" " * (data.MAX_SMALL_BYTES + 1)])
@pytest.mark.parametrize("name", ["anchorbench.json", "tokenizer.json"])
def test_json_that_is_none_is_refused(copy, name, content):
    (copy / "composite-conflict" / name).write_bytes(content)
    refused(copy, name)


@pytest.mark.parametrize("field", ["model", "normalizer", "post_processor"])
def test_a_tokenizer_of_another_kind_is_refused(copy, field):
    path = copy / "composite-conflict" / "tokenizer.json"
    content = json.loads(path.read_text())
    content[field] = {"type": "Lowercase"} if field != "model" else content[field] | {"vocab": content[field]["vocab"] | {"a1": 2}}
    path.write_text(json.dumps(content))
    refused(copy, "tokenizer.json is not the tokenizer of composite-conflict")


def test_the_common_tokenizer_is_checked(tmp_path):
    data.build("recitation", tmp_path / "out", size=3)
    data.verify(tmp_path / "out")
    path = tmp_path / "out" / "tokenizer.json"
    path.write_text(path.read_text().replace('"a3"', '"b3"'))
    refused(tmp_path / "out", str(path), "is not the tokenizer of recitation-gap-1, recitation-gap-2, recitation-gap-3")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("composite-conflict/ood.parquet", "composite-conflict/train.parquet", "to the files of composite-conflict"),
        ("composite-conflict/ood.parquet", "../ood.parquet", "to the files of composite-conflict"),
        ("- config_name: statistical-default\n  data", "- config_name: statistical\n  data", "lists 2 configurations"),
        ("configs:", "config:", "does not begin with the YAML"),
        ("---\n", "", "does not begin with the YAML"),
        ("license: apache-2.0", "license: [", "README.md is not YAML"),
        ("license: apache-2.0", "license: " + 5_000 * "[", "nests more than 32 deep"),
        ("license: apache-2.0", "license: !!timestamp 2020", "tags such as"),
        ("license: apache-2.0", "license: \0", "README.md is not YAML"),
    ],
)
def test_a_card_that_sends_load_dataset_elsewhere_is_refused(copy, old, new, reason):
    path = copy / "README.md"
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))
    refused(copy, str(path), reason)


def test_without_its_card_a_data_set_is_refused(copy):
    (copy / "README.md").unlink()
    refused(copy, "README.md is missing")


def test_a_renamed_configuration_is_refused(copy):
    (copy / "composite-conflict").rename(copy / "composite-heldout-both")
    refused(copy, "folder is 'composite-heldout-both'")


def test_what_is_no_data_set_is_one_sentence(cli: Cli, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "other" / "folder").mkdir(parents=True)
    for folder in ("file", "empty", "other", "nothing"):
        for command in (("verify", tmp_path / folder), ("push", tmp_path / folder, "me/it", "--dry-run")):
            outcome = cli("data", *command)
            assert outcome.code == 2
            require_one_sentence(outcome.err)


# ------------------------------------------------------------------------------------------------ push


class FakeHub:
    """Stands for HfApi; remembers what it was asked for."""

    calls: list[tuple[str, dict[str, object]]] = []
    error: Exception | None = None

    def __init__(self, **_: object) -> None:
        if self.error is not None:
            raise self.error

    def create_repo(self, repo: str, **options: object) -> str:
        self.calls.append((repo, options))
        return f"https://huggingface.co/datasets/{repo}"

    def upload_folder(self, **options: object) -> None:
        self.calls.append(("upload", options))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[FakeHub]:
    monkeypatch.setattr(FakeHub, "calls", [])
    monkeypatch.setattr(FakeHub, "error", None)
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeHub)
    return FakeHub


def pushable(folder: Path) -> Path:
    data.build("composite-conflict", folder, size=SIZE)
    (folder / ".cache").mkdir()
    (folder / ".cache" / "secret").write_text("mine")
    (folder / "notes.txt").write_text("mine")
    return folder


FILES = [
    *("README.md", "tokenizer.json", "tokenizer_config.json"),
    *(f"composite-conflict/{name}" for name in ("anchorbench.json", "tokenizer.json", "tokenizer_config.json")),
    *(f"composite-conflict/{split}.parquet" for split in ("train", "iid", "ood")),
]


def test_dry_run_lists_what_would_be_uploaded(cli: Cli, hub, tmp_path):
    folder = pushable(tmp_path / "out")
    outcome = cli("data", "push", folder, "me/it", "--dry-run")
    assert outcome.code == 0
    *listed, last = outcome.out.splitlines()
    assert [line.split()[1] for line in listed] == FILES
    assert [int(line.split()[0].replace(",", "")) for line in listed] == [(folder / name).stat().st_size for name in FILES]
    assert "9 files" in last
    assert hub.calls == []


def test_push(cli: Cli, hub, tmp_path):
    folder = pushable(tmp_path / "out")
    outcome = cli("data", "push", folder, "me/it")
    assert (outcome.code, outcome.out) == (0, "uploaded: https://huggingface.co/datasets/me/it\n")
    assert hub.calls == [
        ("me/it", {"repo_type": "dataset", "exist_ok": True}),
        ("upload", {"repo_id": "me/it", "repo_type": "dataset", "folder_path": folder, "allow_patterns": FILES}),
    ]


def test_wrong_data_are_not_pushed(cli: Cli, hub, tmp_path):
    folder = pushable(tmp_path / "out")
    change(folder / "composite-conflict" / "ood.parquet", "label", 1, 5)
    outcome = cli("data", "push", folder, "me/it")
    assert outcome.code == 2
    assert "row 1: label is 5" in outcome.err
    assert hub.calls == []


@pytest.mark.parametrize("name", ["README.md", "tokenizer.json", "composite-conflict/tokenizer_config.json", "composite-conflict"])
def test_links_are_not_pushed(cli: Cli, hub, tmp_path, name):
    folder = pushable(tmp_path / "out")
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    outcome = cli("data", "push", folder, "me/it")
    assert outcome.code == 2
    require_one_sentence(outcome.err)
    assert hub.calls == []


@pytest.mark.parametrize(
    "error",
    [
        OSError("Token is required\n(`token=True`), but no token found."),
        ConnectionError("[Errno -2] Name or service not known"),
        RuntimeError(),
    ],
    ids=["token", "network", "nameless"],
)
def test_what_the_hub_refuses_is_one_sentence(cli: Cli, hub, tmp_path, monkeypatch, error):
    monkeypatch.setattr(hub, "error", error)
    outcome = cli("data", "push", pushable(tmp_path / "out"), "me/it")
    assert outcome.code == 2
    assert "'me/it' cannot be pushed to the Hub" in outcome.err
    require_one_sentence(outcome.err)


@pytest.mark.parametrize("repo", ["me/it", "../it", "a/b/c", ""])
def test_without_network_push_is_one_sentence(cli: Cli, tmp_path, repo):
    """With the real library, which the tests keep offline."""
    outcome = cli("data", "push", pushable(tmp_path / "out"), repo)
    assert outcome.code == 2
    assert "cannot be pushed to the Hub" in outcome.err
    require_one_sentence(outcome.err)
