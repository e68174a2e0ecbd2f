"""Data sets that are verified: every damage is found and named."""

import json
import shutil
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cells import change
from conftest import Cli, require_one_sentence
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anchorbench.catalogue import find_tasks
from anchorbench.hub import datasets as data
from anchorbench.hub.card import card

SIZE = 40


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


def refused(folder: Path, *parts: str, **options: int) -> None:
    """`verify` refuses the folder in one sentence that names each of `parts`."""
    with pytest.raises(ValueError) as caught:
        data.verify(folder, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1_000
    for part in parts:
        assert part in message


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
    refused(copy, "row 20: label is 5; the task gives ")
    change(path, "tokens", 10, [0] * 9)
    refused(copy, "row 10 is not an example")
    change(path, "position", 3, 8)
    refused(copy, "row 3: position is 8")


def test_rows_are_counted_over_the_pieces_that_are_read(copy):
    data.verify(copy, rows=7)
    change(copy / "composite-conflict" / "train.parquet", "label", 23, 5)
    refused(copy, "row 23: label is 5", rows=7)


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
        ("- config_name: statistical-default\n  data", "- config_name: statistical\n  data", "lists 2 configs"),
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
