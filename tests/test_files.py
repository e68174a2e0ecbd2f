"""The door for what comes from outside on disk: what is read, and what is left behind when writing fails."""

import errno
import os
import socket
import stat
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from processes import child, environment

from anchorbench import files
from anchorbench.files import new_folder, parse_json, parse_yaml, read_bytes, require_place, visible, write_atomically

# --- Reading

CORE_SCHEMA = {
    "~": None, "null": None, "": None, "true": True, "FALSE": False, "yes": "yes", "on": "on", "y": "y",
    "010": 10, "-7": -7, "+3": 3, "0o17": 15, "0x1F": 31, "0777": 777, "1_000": "1_000", "0b1": "0b1",
    "1.5": 1.5, ".5": 0.5, "1e-3": 0.001, "1.5e3": 1500, "1e3": 1000, "3.": 3, "-1E+2": -100, "1.25e-1": 0.125,
    "30:00": "30:00", "190:20:30.15": "190:20:30.15", "2026-01-01": "2026-01-01", "=": "=", "1e": "1e", ".": ".",
    "'5'": "5", '"true"': "true", "[1, 'a', ~]": [1, "a", None], "{1: {a: 2}}": {1: {"a": 2}},
}  # fmt: skip


@pytest.mark.parametrize("text", CORE_SCHEMA)
def test_yaml_is_read_by_the_core_schema(text: str) -> None:
    value = parse_yaml(text.encode(), "x")
    assert (value, type(value)) == (CORE_SCHEMA[text], type(CORE_SCHEMA[text]))


REFUSED = {
    "a: 1\nb: !!int '1'": "tags such as 'tag:yaml.org,2002:int' are not allowed (line 2)",
    "! a": "tags such as '!' are not allowed",
    "!!timestamp x": "tags such as",
    "- &a 1": "anchors are not allowed (line 1)",
    "\n- *a": "aliases are not allowed (line 2)",
    "<<: {a: 1}": "merge keys are not allowed",
    "a: 1\nb: 2\na: 3": "the key 'a' is repeated (line 3)",
    "1: x\n'1': y": "the key '1' is repeated",
    "1: x\n0x1: y": "the key 1 is repeated",
    "true: 1": "a key is True",
    "[a]: 1": "a key is ['a']",
    ".inf": ".inf is not allowed",
    "-.INF": "-.INF is not allowed",
    ".nan": ".nan is not allowed",
    "1e999": "the number 1e999 is too large",
    "9" * 5000: "a number has 5000 characters",
    "1\n---\n2": "a second document begins",
    "[" * 40 + "]" * 40: "it nests more than 32 deep",
    "a: [1": "is not YAML",
    "a: \x07": "the character",
    '"\\UFFFFFFFF"': "out of bounds",
    f"%YAML {'9' * 5000}.1\n--- 1": "out of bounds",
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text[:20])
def test_other_yaml_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"^x is not (plain )?YAML: .* \(line \d+\)$") as refused:
        parse_yaml(text.encode(), "x")
    assert REFUSED[text] in str(refused.value)


def test_json_nests_as_deep_as_allowed_and_no_deeper() -> None:
    deep = b"[" * 32 + b"]" * 32
    assert parse_json(deep, "x") == parse_yaml(deep, "x")
    for depth in (33, 60_000):
        with pytest.raises(ValueError, match="x nests more than 32 deep"):
            parse_json(b"[" * depth + b"]" * depth, "x")


@pytest.fixture
def odd_files(tmp_path: Path) -> dict[str, Path]:
    """One of each kind that is no plain file."""
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as unbound:
        unbound.bind(str(tmp_path / "socket"))
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    kinds = {name: tmp_path / name for name in ("pipe", "socket", "link", "loop", "missing")}
    return kinds | {"folder": tmp_path, "device": Path("/dev/zero"), "nothing": Path("/dev/null")}


@pytest.mark.parametrize("kind", ["pipe", "socket", "link", "loop", "missing", "folder", "device", "nothing"])
def test_only_a_plain_file_is_opened(odd_files: dict[str, Path], kind: str) -> None:
    path = odd_files[kind]
    with pytest.raises(ValueError, match=r"is not a plain file|cannot be read|is missing") as refused:
        read_bytes(path, most=10)
    assert str(refused.value).startswith(str(path))


def test_a_file_that_became_a_pipe_since_it_was_looked_at_is_not_waited_for(
    odd_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"1")
    plain = (tmp_path / "file").stat()
    monkeypatch.setattr(Path, "stat", lambda self, **_: plain)
    with pytest.raises(ValueError, match="is not a plain file"):
        read_bytes(odd_files["pipe"], most=10)


def test_a_file_has_a_largest_size(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert read_bytes(tmp_path / "file", most=5) == b"12345"
    with pytest.raises(ValueError, match="has 5 bytes; allowed: at most 4"):
        read_bytes(tmp_path / "file", most=4)


def test_what_is_shown_on_a_terminal_is_one_visible_line() -> None:
    name = "a\nb\x1b[31m\u202e\u200b\udcff\té中"
    assert visible(Path(name)) == r"a\nb\x1b[31m\u202e\u200b\udcff\té中"
    assert visible("x" * 3000) == "x" * 2000 + "..."


# --- Writing


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refuse(monkeypatch: pytest.MonkeyPatch, where: Any, name: str, error: int, when: Any = lambda *_: True) -> None:
    """Makes a call of the operating system fail, as a file system does that is full or has no such thing."""
    real = getattr(where, name)

    def fail(*arguments: Any, **options: Any) -> Any:
        if when(*arguments):
            raise OSError(error, os.strerror(error))
        return real(*arguments, **options)

    monkeypatch.setattr(where, name, fail)


FAILURES = {
    "disk full": (os, "fsync", errno.ENOSPC),
    "quota": (os, "fsync", errno.EDQUOT),
    "busy": (Path, "replace", errno.EBUSY),
    "read-only": (Path, "open", errno.EROFS),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_file_that_cannot_be_written_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str) -> None:
    write_atomically(tmp_path / "file", b"old")
    refuse(monkeypatch, *FAILURES[failure])
    with pytest.raises(OSError, match=r".") as raised:
        write_atomically(tmp_path / "file", b"new")
    monkeypatch.undo()
    assert (raised.value.errno, raised.value.filename) == (FAILURES[failure][2], str(tmp_path / "file"))
    assert (left(tmp_path), (tmp_path / "file").read_bytes()) == (["file"], b"old")


@pytest.mark.parametrize("error", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_fsync_and_chmod_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    refuse(monkeypatch, os, "fsync", error)
    for name in ("chmod", "fchmod"):
        refuse(monkeypatch, os, name, errno.EPERM)
    write_atomically(tmp_path / "file", b"new")
    with new_folder(tmp_path / "folder", marker="b") as folder:
        (folder / "b").write_bytes(b"1")
    assert left(tmp_path) == ["file", "folder"]


def test_what_is_written_has_the_umasks_permissions(tmp_path: Path) -> None:
    for mask in (0o022, 0o077, 0o002):
        before = os.umask(mask)
        try:
            write_atomically(tmp_path / f"{mask}", b"")
            with new_folder(tmp_path / f"folder-{mask}", marker="x"):
                pass
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / f"{mask}").stat().st_mode) == 0o666 & ~mask
        assert stat.S_IMODE((tmp_path / f"folder-{mask}").stat().st_mode) == 0o777 & ~mask


def test_a_device_or_pipe_is_never_replaced(odd_files: dict[str, Path]) -> None:
    for kind in ("pipe", "folder", "link"):
        with pytest.raises(OSError, match="not a plain file"):
            write_atomically(odd_files[kind], b"x")
    for kind in ("pipe", "folder", "device", "nothing"):
        with pytest.raises(ValueError, match="is not a plain file; choose another"):
            require_place(odd_files[kind], "--json")


def test_the_place_of_a_file_is_asked_for_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_place(tmp_path / "a.pdf", "--figures", (".pdf", ".svg"))
    assert left(tmp_path) == []
    with pytest.raises(ValueError, match=r"a\.jpg; allowed: a file that ends in \.pdf or \.svg"):
        require_place(tmp_path / "a.jpg", "--figures", (".pdf", ".svg"))
    with pytest.raises(ValueError, match="none does not exist; choose another --json"):
        require_place(tmp_path / "none" / "a.json", "--json")
    refuse(monkeypatch, files.tempfile, "TemporaryFile", errno.EROFS)
    with pytest.raises(ValueError, match="Read-only file system; choose another --json"):
        require_place(tmp_path / "a.json", "--json")


def fill(folder: Path) -> None:
    (folder / "inner").mkdir()
    for name in ("inner/data", "a-marker", "z-last"):
        (folder / name).write_text(name)


def whole(folder: Path) -> bool:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")} == {"inner", "inner/data", "a-marker", "z-last"}


def test_a_new_folder_appears_as_a_whole(tmp_path: Path) -> None:
    with new_folder(tmp_path / "x" / "out", marker="a-marker") as folder:
        fill(folder)
        assert not (tmp_path / "x" / "out").exists()
    assert whole(tmp_path / "x" / "out")
    assert left(tmp_path / "x") == ["out"]


def test_an_empty_folder_stays_the_same_and_its_marker_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it must where it is a mount point, or in a folder that cannot be written to: a rename of it would fail."""
    (out := tmp_path / "out").mkdir()
    inode = out.stat().st_ino
    moved: list[str] = []
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        assert Path(target).parent == out
        moved.append(Path(target).name)
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with new_folder(out, marker="a-marker") as folder:
        fill(folder)
    assert whole(out)
    assert out.stat().st_ino == inode
    assert (len(moved), moved[-1]) == (3, "a-marker")


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("failure", ["body", "interrupt", "mkdir", "fsync", "rename", "second rename"])
def test_a_folder_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str, exists: bool) -> None:
    out = tmp_path / "out"
    if exists:
        out.mkdir()
    calls = iter(range(100))
    if failure == "mkdir":
        refuse(monkeypatch, Path, "mkdir", errno.EROFS, lambda path, *_: path.name.startswith("."))
    elif failure == "fsync":
        refuse(monkeypatch, os, "fsync", errno.ENOSPC)
    elif failure.endswith("rename"):
        refuse(monkeypatch, Path, "rename", errno.EBUSY, lambda *_: failure == "rename" or not exists or next(calls) == 1)
    error = {"body": RuntimeError, "interrupt": KeyboardInterrupt}.get(failure, ValueError)
    with pytest.raises(error), new_folder(out, marker="a-marker") as folder:
        fill(folder)
        if failure in ("body", "interrupt"):
            raise error
    monkeypatch.undo()
    assert left(tmp_path) == ["out"] * exists
    assert not exists or left(out) == []


@pytest.mark.parametrize("what", ["folder", "file", "link", "dangling"])
def test_what_is_replaced_is_there_until_the_new_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    out, aside = tmp_path / "out", tmp_path / "aside"
    aside.mkdir()
    if what == "folder":
        out.mkdir()
        (out / "old").touch()
    elif what == "file":
        out.touch()
    else:
        out.symlink_to(aside if what == "link" else tmp_path / "nowhere")
    before = out.lstat().st_ino
    refuse(monkeypatch, Path, "rename", errno.ENOSPC, lambda path, _: (path / "new").exists())
    with pytest.raises(ValueError, match="cannot be written: No space left"), new_folder(out, marker="x", replace=True) as folder:
        (folder / "new").touch()
    monkeypatch.undo()
    assert out.lstat().st_ino == before
    with new_folder(out, marker="x", replace=True) as folder:
        (folder / "new").touch()
    assert not out.is_symlink()
    assert left(out) == ["new"]
    assert left(tmp_path) == ["aside", "out"]


@pytest.mark.parametrize("what", ["file", "full", "filled meanwhile"])
def test_a_folder_with_something_in_it_is_not_written_to(tmp_path: Path, what: str) -> None:
    out = tmp_path / "out"
    if what == "file":
        out.touch()
    else:
        out.mkdir()
    if what == "full":
        (out / "other").touch()
    with pytest.raises(ValueError, match="is not an empty folder"), new_folder(out, marker="x") as folder:
        fill(folder)
        (out / "other").touch()
    assert left(tmp_path) == ["out"]
    assert what == "file" or left(out) == ["other"]


@pytest.mark.parametrize("exists", [False, True])
def test_what_killed_calls_left_is_removed_and_what_others_write_is_not(tmp_path: Path, exists: bool) -> None:
    out = tmp_path / "out"
    if exists:
        out.mkdir()
    command, env = child("build_folder", out), environment()
    (tmp_path / ".out.notes").mkdir()
    leftover = Path(subprocess.run([*command, "killed"], env=env, capture_output=True, text=True, check=False).stdout.strip())
    with subprocess.Popen([*command, "waits"], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        theirs = Path(other.stdout.readline().strip())
        assert not leftover.exists()
        with suppress(ValueError), new_folder(out, marker="x") as folder:
            (folder / "x").touch()
        assert (theirs / "half").is_file()
        other.communicate()
    assert left(tmp_path) == [".out.notes", "out"]
    assert left(out) == ["x"]
