"""Data sets that are built: what `load_dataset` and `AutoTokenizer` give back, and the same bytes each time."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, Cli, bytes_of, require_one_sentence
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from anchorbench import list_tasks, load_task
from anchorbench.catalogue import find_tasks
from anchorbench.hub import datasets as data
from anchorbench.hub.card import Built
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


def column(values: np.ndarray) -> list[int | None]:
    return [None if value == NO_ANSWER else int(value) for value in values]


# ------------------------------------------------------------------------------------------------ what is in a data set


@pytest.mark.parametrize(("name", "variant"), TASKS, ids=[f"{name}-{variant}" for name, variant in TASKS])
def test_the_files_hold_what_the_task_samples(everything, name, variant):
    task = load_task(name, variant)
    folder = everything / task.full_name
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
        rows = pq.read_table(tmp_path / "out" / task.full_name / "train.parquet").to_pydict()
        assert tokenizer(rows["text"])["input_ids"] == rows["tokens"]


def test_an_unknown_word_is_refused(everything):
    with pytest.raises(Exception, match="UNK"):
        AutoTokenizer.from_pretrained(everything / "composite-conflict")("20 a1 a5")


def test_the_card_says_how_it_was_made(everything):
    card = huggingface_hub.DatasetCard.load(everything / "README.md")
    assert card.data.license == "apache-2.0"
    assert {config["config_name"] for config in card.data.to_dict()["configs"]} == {f"{name}-{variant}" for name, variant in TASKS}
    assert "anchorbench data build all --out DIR --size 40 --seed 3" in card.text
    task = load_task("composite", "conflict")
    assert f"| composite-conflict | 40 | 40 | 40 | 9 | 120 | 0.0125 | `{task.fingerprint}` |" in card.text
    for said in ("`[*tokens, label]`", "no BOS, EOS or padding token", "composed if it equals `foil_inferential`"):
        assert said in card.text
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
    rows = pq.read_table(tmp_path / "out" / built[0].task.full_name / "train.parquet")["text"].to_pylist()
    assert rows == built[0].task.text(built[0].task.sample("train", size or 720, 0).tokens)


def test_whole_data_are_right(everything, cli: Cli):
    outcome = cli("data", "verify", everything)
    rows = SIZE * sum(len(task.splits) for task in find_tasks("all"))
    assert (outcome.code, outcome.err) == (0, "")
    assert f"all {rows:,} rows of {len(TASKS)} configs are correct" in outcome.out


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
