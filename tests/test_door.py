"""Nothing in the package reads a file, YAML or JSON but through `anchorbench.files`; and no command waits for a pipe or prints what
a file's name holds.
"""

import ast
import errno
import os
from pathlib import Path

import hostile
import pytest
from conftest import ROOT, SWEEP, Cli, require_one_sentence

PACKAGE = ROOT / "anchorbench"
READS = {
    "load", "loads", "safe_load", "full_load", "read_text", "read_bytes", "open", "model_validate_json", "ParquetFile",
    "read_table", "safe_open", "load_file", "fromfile",
}  # fmt: skip
ALLOWED = {
    ("__main__.py", "open"): "/dev/null, to write to",
    ("sweeps/check.py", "load"): "a stack's own, from tensors",
    ("hub/checkpoint.py", "load_file"): "after `require_plain` of a name inside the folder",
    ("cli/main.py", "open"): "/dev/null, to write to",
    ("cli/main.py", "read_text"): "a card that was just written",
    ("cli/new.py", "read_text"): "templates of the package",
    ("hub/datasets.py", "ParquetFile"): "of what `open_plain` opened",
    ("hub/datasets.py", "loads"): "of text that we made",
    ("show/html.py", "read_text"): "templates of the package",
    ("sweeps/index.py", "read_table"): "of what `open_plain` opened",
    ("sweeps/index.py", "model_validate_json"): "text of a column of a part of limited size, for speed",
    ("sweeps/store.py", "read_table"): "of what `open_plain` opened, of limited size",
    ("sweeps/store.py", "safe_open"): "after `require_whole`",
    ("sweeps/lock.py", "model_validate_json"): "a lock is smaller than MAX_BYTES, and a plain file",
    ("sweeps/lock.py", "open"): "the same",
    ("sweeps/lock.py", "read_bytes"): "the same, and /proc",
    ("sweeps/lock.py", "read_text"): "/proc",
    ("machine.py", "read_text"): "/proc",
    ("train/memory.py", "read_text"): "/proc and /sys",
    ("train/gradients/compiled.py", "read_text"): "/proc",
    ("show/report.py", "read_bytes"): "a figure that was just drawn",
    ("show/ledger.py", "open"): "a figure that was just drawn",
    ("sweeps/run_folder.py", "load_file"): "after `require_plain`",
    ("sweeps/folder.py", "safe_open"): "after `require_plain`",
    ("recipe.py", "loads"): "of text that we made",
    ("registry.py", "load"): "an entry point of an installed package",
    ("train/checkpoint.py", "safe_open"): "after `require_plain`",
    ("show/source.py", "safe_open"): "the same",
}
WRITES = {
    "write_text", "write_bytes", "savefig", "mkdtemp", "mkstemp", "NamedTemporaryFile", "dump", "chmod", "copystat", "save_file",
}  # fmt: skip
ALLOWED_TO_WRITE = {
    ("show/canvas.py", "savefig"): "to memory",
    ("hub/datasets.py", "write_text"): "into a `new_folder`",
    ("cli/new.py", "write_text"): "the same",
    ("hub/models.py", "write_text"): "the same",
    ("sweeps/run_folder.py", "write_bytes"): "the same",
    ("sweeps/store.py", "write_bytes"): "the same",
    ("sweeps/store.py", "save_file"): "the same",
}


def calls(path: Path, names: set[str]) -> set[tuple[str, str]]:
    """The calls of methods with these names in a module, and all of yaml's but for `safe_dump`."""
    found: set[tuple[str, str]] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            call = node.func
            of = call.value.id if isinstance(call, ast.Attribute) and isinstance(call.value, ast.Name) else ""
            name = call.attr if isinstance(call, ast.Attribute) else call.id if isinstance(call, ast.Name) else ""
            by_name = isinstance(call, ast.Name) and name == "read_bytes"  # the door's own
            if (name in names and not by_name) or (of == "yaml" and name != "safe_dump"):
                found.add((str(path.relative_to(PACKAGE)), name))
    return found


@pytest.mark.parametrize(("names", "allowed"), [(READS, ALLOWED), (WRITES, ALLOWED_TO_WRITE)], ids=["in", "out"])
def test_there_is_one_door(names: set[str], allowed: dict[tuple[str, str], str]) -> None:
    found = set().union(*(calls(path, names) for path in PACKAGE.rglob("*.py") if path.name != "files.py"))
    assert found <= allowed.keys(), "read and write by anchorbench.files"
    assert found == allowed.keys(), "these are called no more: take them from the list"


def test_a_file_system_without_chmod_and_fsync_will_do(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object store's mount, a drive of the cloud: every command that writes, into an empty folder too."""

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    def missing(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    for where, name in ((os, "chmod"), (os, "fchmod"), (Path, "chmod")):
        monkeypatch.setattr(where, name, refused)
    monkeypatch.setattr(os, "fsync", missing)
    (tmp_path / "set").mkdir()
    assert cli(*SWEEP, "--out", tmp_path / "sweep").code == 0
    run = sorted((tmp_path / "sweep" / "runs").iterdir())[0]
    for command in (
        ("export", run, tmp_path / "exported"),
        ("data", "build", "composite-conflict", "--size", 8, "--out", tmp_path / "set"),
        ("leaderboard", "schema", "--out", tmp_path / "board"),
    ):
        assert cli(*command).code == 0
    assert (tmp_path / "exported" / "config.json").exists()
    assert cli("data", "verify", tmp_path / "set").code == 0


COMMANDS = {
    "sweep plan": ("sweep", "plan", "FILE"),
    "sweep run": ("sweep", "run", "FILE", "--out", "OUT"),
    "sweep locate": ("sweep", "locate", "FILE", "--low", "0.1", "--high", "0.9", "--out", "OUT"),
    "leaderboard register": ("leaderboard", "register", "FILE", "--name", "a", "--board", "OUT"),
    "leaderboard run": ("leaderboard", "run", "FILE", "--beacon", "0" * 16, "--out", "OUT"),
    "leaderboard validate": ("leaderboard", "validate", "FILE"),
    "leaderboard verify": ("leaderboard", "verify", "FILE", "--out", "OUT"),
    "leaderboard render": ("leaderboard", "render", "--board", "FOLDER", "--out", "OUT"),
    "leaderboard export": ("leaderboard", "export", "FILE", "--dataset", "a/b", "--out", "OUT"),
    "classify": ("classify", "FOLDER"),
    "check": ("check", "FOLDER"),
    "probe": ("probe", "attention_flow", "FOLDER"),
    "probe fit": ("probe", "fit", "FOLDER", "--out", "OUT"),
    "export": ("export", "FOLDER", "OUT"),
    "report": ("report", "FOLDER"),
    "data verify": ("data", "verify", "FOLDER"),
    "data push": ("data", "push", "FOLDER", "a/b", "--dry-run"),
}
NAME = "a\nb\x1b[31m\u202e"


def fill_with_pipes(folder: Path) -> None:
    """A pipe wherever a command may look for a file."""
    names = [
        "digests.json", "result.json", "recipe.json", "trajectory.jsonl", "weights.safetensors", "config.json", "entry.json",
        "model.safetensors", "anchorbench.json", "README.md", "composite-conflict/anchorbench.json", "runs/x/digests.json",
    ]  # fmt: skip
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(folder / name)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_waits_for_a_pipe_or_prints_a_name_as_it_is(cli: Cli, tmp_path: Path, command: str) -> None:
    base = tmp_path / NAME
    fill_with_pipes(base)
    os.mkfifo(base / "pipe")
    places = {"FILE": base / "pipe", "FOLDER": base, "OUT": tmp_path / "out"}
    outcome = cli(*(places.get(part, part) for part in COMMANDS[command]))
    assert outcome.code == 2
    require_one_sentence(outcome.err)
    for text in (outcome.out, outcome.err):
        assert all(char.isprintable() or char == "\n" for char in text)
    assert "a\nb" not in outcome.out + outcome.err
    assert r"a\nb\x1b[31m\u202e" in outcome.err + outcome.out


def test_entries_in_odd_files_are_named_in_one_line(cli: Cli, tmp_path: Path) -> None:
    entries = tmp_path / NAME / "entries"
    honest = hostile.honest_entry()
    hostile.written(tmp_path / NAME, honest)
    (entries / f"1{NAME}.json").write_bytes(honest.to_json())
    (entries / f"2{NAME}.json").write_bytes(honest.to_json())
    (entries / f"3{NAME}.json").write_bytes(hostile.honest_entry("\uff28ONEST", data_size=50_000).to_json())
    rendered = cli("leaderboard", "render", "--board", tmp_path / NAME, "--out", tmp_path / NAME / "out")
    assert rendered.code == 0
    assert "is not among the board's" in rendered.out
    assert "1 entries" in rendered.out
    assert all(char.isprintable() or char == "\n" for char in rendered.out)
    assert rendered.out.count("\n") == 2
