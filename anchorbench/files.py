"""The only module that reads untrusted files, and that writes files.

Reading: only regular files are opened, size and nesting depth are limited, and YAML and JSON have one reader each; rejected input
raises ValueError with one sentence. Writing: a file or folder appears completely or not at all, whatever the file system supports.
"""

import errno
import fcntl
import json
import math
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema

MAX_YAML_BYTES = 2**16
MAX_JSON_BYTES = 2**22
MAX_DEPTH = 32
MAX_DIGITS = 40
"""Maximum characters of a number: more than we ever write."""
MAX_SENTENCE = 2000
"""Maximum characters of a message on the terminal: some quote the value that they reject."""
EXACT = 2**53
"""Largest integer up to which every integer is exactly representable as a float."""

# YAML 1.2, core schema (https://yaml.org/spec/1.2.2/#103-core-schema)
_NULL = re.compile(r"null|Null|NULL|~|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


def _make_strict(schema: Any) -> None:
    """Makes numbers and bools accept only their own type (and floats integers); mapping keys, text in JSON, stay unchanged."""
    if isinstance(schema, dict):
        if schema.get("type") in ("bool", "int", "float"):
            schema["strict"] = True
        for key, part in schema.items():
            if key != "keys_schema":
                _make_strict(part)
    elif isinstance(schema, list | tuple):
        for part in schema:
            _make_strict(part)


class Plain(BaseModel):
    """Base class of untrusted data: immutable; rejects unknown fields, NaN, infinity, and text or bools for numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        _make_strict(schema)
        return schema


# ------------------------------------------------------------------------------------------------ words


def visible(text: object, most: int = MAX_SENTENCE) -> str:
    """`text` (often a path, which may contain anything) as one line for a terminal: unprintable characters are escaped, and
    anything after `most` characters is cut.
    """
    line = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in str(text))
    return line if len(line) <= most else f"{line[:most]}..."


# ------------------------------------------------------------------------------------------------ reading


@contextmanager
def open_plain(path: Path) -> Generator[BufferedReader]:
    """Opens a regular file for reading. Raises ValueError for a folder, pipe, socket or device, and for an unreadable file."""
    try:
        _require_regular(path, path.stat())  # before opening, to which a device may react
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(handle, "rb") as file:
            _require_regular(path, os.fstat(handle))  # the path may refer to another file by now
            yield file
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    except OSError as error:
        reason = " ".join((error.strerror or str(error)).split())  # pyarrow's messages have several lines
        raise ValueError(f"{path} cannot be read: {reason}") from None


def require_plain(path: Path) -> None:
    """Check for readers that open the path themselves. Raises ValueError as `open_plain` does."""
    with open_plain(path):
        pass


def _require_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} is not a plain file; allowed: no folder, pipe, socket or device")


def read_bytes(path: Path, *, most: int) -> bytes:
    """The content of a regular file of at most `most` bytes. Raises ValueError with one sentence that names the file."""
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(most + 1) if size <= most else b""
    if size > most or len(content) > most:
        raise ValueError(f"{path} has {max(size, len(content))} bytes; allowed: at most {most}")
    return content


def read_json(path: Path, *, most: int = MAX_JSON_BYTES, deepest: int = MAX_DEPTH) -> Any:
    """The value in a JSON file. Raises ValueError as `read_bytes` and `parse_json` do."""
    return parse_json(read_bytes(path, most=most), str(path), deepest=deepest)


def read_yaml(path: Path, *, most: int = MAX_YAML_BYTES, deepest: int = MAX_DEPTH) -> Any:
    """The value in a YAML file. Raises ValueError as `read_bytes` and `parse_yaml` do."""
    return parse_yaml(read_bytes(path, most=most), str(path), deepest=deepest)


def parse_json(data: bytes, name: str, *, deepest: int = MAX_DEPTH) -> Any:
    """Parses UTF-8 JSON. Raises ValueError, with `name` and one sentence, for invalid text, a repeated key in an object, a number
    that is too long, infinite or NaN, unpaired surrogates, and nesting deeper than `deepest`.
    """
    text = _decoded(data, name)

    def pairs(content: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in content:
            if key in found:
                raise ValueError(f"{name}: the key {_quoted(key)} is repeated in an object")
            found[key] = value
        return found

    def number(kind: type[int] | type[float]) -> Callable[[str], int | float]:
        return lambda digits: _number(kind, digits, name)

    def constant(word: str) -> None:
        raise ValueError(f"{name}: {word} is not a JSON number; allowed: finite numbers")

    try:
        value = json.loads(text, object_pairs_hook=pairs, parse_constant=constant, parse_int=number(int), parse_float=number(float))
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise ValueError(f"{name} nests more than {deepest} deep; allowed: at most {deepest}") from None
    _require_shallow(value, name, deepest)
    return value


def _require_shallow(value: Any, name: str, deepest: int) -> None:
    level, depth = [value], 0
    while level:
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner += item
                inner += item.values()
            elif isinstance(item, list):
                inner += item
            elif isinstance(item, str) and not item.isascii():
                _require_whole(item, name)
        depth += any(isinstance(item, dict | list) for item in level)
        if depth > deepest:
            raise ValueError(f"{name} nests more than {deepest} deep; allowed: at most {deepest}")
        level = inner


def _require_whole(text: str, name: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} holds the unpaired surrogate {error.object[error.start]!r}; allowed: valid Unicode") from None


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not UTF-8: byte {error.start} is {data[error.start]:#04x}") from None


def _number(kind: type[int] | type[float], digits: str, name: str) -> int | float:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"{name}: a number has {len(digits)} characters; allowed: at most {MAX_DIGITS}")
    value = kind(digits)
    if not math.isfinite(value):
        raise ValueError(f"{name}: the number {digits} is too large; allowed: finite numbers")
    return value


def _quoted(value: object) -> str:
    return visible(repr(value), 100)


def parse_yaml(data: bytes, name: str, *, deepest: int = MAX_DEPTH) -> Any:
    """Parses one YAML document by the core schema of YAML 1.2: null, bools, numbers, text, lists, and mappings whose keys are text
    or integers. A float with an integral value (1e3) is an integer.

    Raises ValueError, with `name`, the line and one sentence, for anything else: tags, anchors, aliases, merge keys, repeated keys,
    infinite or overlong numbers, a second document, and nesting deeper than `deepest`.
    """
    text = _decoded(data, name)
    reader = _YamlReader(text, deepest)
    try:
        return reader.document()
    except _RefusedError as refusal:
        raise ValueError(f"{name} is not plain YAML: {refusal} (line {reader.line})") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else reader.line
        raise ValueError(f"{name} is not YAML: {visible(error.problem)} (line {line})") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ValueError(f"{name} is not YAML: it holds the character {error.character:#x} (line {line})") from None
    except (ValueError, ArithmeticError, RecursionError):  # from an unbounded directive or escape, inside PyYAML
        raise ValueError(f"{name} is not YAML: a number or character out of bounds (line {reader.line})") from None


class _RefusedError(Exception):
    """YAML that we reject."""


class _YamlReader:
    """Builds values from PyYAML's events, which do not know the types and objects of YAML 1.1."""

    def __init__(self, text: str, deepest: int) -> None:
        self._events: Any = yaml.parse(text, Loader=yaml.SafeLoader)
        self._deepest = deepest
        self.line = 1

    def document(self) -> Any:
        self._next()  # stream start
        if isinstance(self._next(), yaml.StreamEndEvent):
            return None
        value = self._value(self._next(), 0)
        self._next()  # document end
        if not isinstance(self._next(), yaml.StreamEndEvent):
            raise _RefusedError("a second document begins; allowed: one")
        return value

    def _next(self) -> Any:
        event = next(self._events)
        self.line = event.start_mark.line + 1
        return event

    def _value(self, event: Any, depth: int) -> Any:
        if isinstance(event, yaml.AliasEvent):
            raise _RefusedError("aliases are not allowed")
        if event.anchor is not None:
            raise _RefusedError("anchors are not allowed")
        if event.tag is not None:
            raise _RefusedError(f"tags such as {_quoted(event.tag)} are not allowed")
        if isinstance(event, yaml.ScalarEvent):
            if not event.value.isascii() and any("\ud800" <= char <= "\udfff" for char in event.value):
                raise _RefusedError("it holds an unpaired surrogate")
            return self._plain(event.value) if event.implicit[0] else event.value
        if depth == self._deepest:
            raise _RefusedError(f"it nests more than {depth} deep")
        return self._list(depth) if isinstance(event, yaml.SequenceStartEvent) else self._mapping(depth)

    def _list(self, depth: int) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            items.append(self._value(event, depth + 1))
        return items

    def _mapping(self, depth: int) -> dict[str | int, Any]:
        found: dict[str | int, Any] = {}
        known: set[str] = set()  # 1 and "1" are the same key in JSON
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key = self._value(event, depth + 1)
            if not isinstance(key, str) and type(key) is not int:
                raise _RefusedError(f"a key is {_quoted(key)}; allowed: text and whole numbers")
            if key == "<<":
                raise _RefusedError("merge keys are not allowed")
            if str(key) in known:
                raise _RefusedError(f"the key {_quoted(key)} is repeated")
            known.add(str(key))
            found[key] = self._value(self._next(), depth + 1)
        return found

    def _plain(self, text: str) -> Any:
        """Resolves an unquoted scalar by the core schema."""
        if _NULL.fullmatch(text):
            return None
        if _BOOL.fullmatch(text):
            return text.lower() == "true"
        if _NOT_FINITE.fullmatch(text):
            raise _RefusedError(f"{text} is not allowed: numbers are finite")
        if not (_INTEGER.fullmatch(text) or _FLOAT.fullmatch(text)):
            return text
        if len(text) > MAX_DIGITS:
            raise _RefusedError(f"a number has {len(text)} characters; allowed: at most {MAX_DIGITS}")
        if _INTEGER.fullmatch(text):
            base = {"0o": 8, "0x": 16}.get(text[:2], 10)
            return int(text[2:] if base != 10 else text, base)
        value = float(text)
        if not math.isfinite(value):
            raise _RefusedError(f"the number {text} is too large")
        return int(value) if value.is_integer() and abs(value) <= EXACT else value


# ------------------------------------------------------------------------------------------------ writing


def require_place(path: Path, what: str, suffixes: Sequence[str] = ()) -> None:
    """Checks, before any work, that its result can be written to `path`; `what` names the path in messages (such as --json).

    Raises ValueError with one sentence if the file name does not end in one of `suffixes` (".pdf"), the path exists but is not a
    regular file, or its folder does not exist or is not writable.
    """
    if suffixes and path.suffix not in suffixes:
        raise ValueError(f"{what} is {path}; allowed: a file that ends in {' or '.join(suffixes)}")
    try:
        if path.exists() and not path.is_file():
            raise ValueError(f"{what} is {path}, which is not a plain file; choose another")
        folder = path.absolute().parent
        if not folder.is_dir():
            raise ValueError(f"folder {folder} does not exist; choose another {what}")
        with tempfile.TemporaryFile(dir=folder):  # permissions alone do not tell
            pass
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror or error}; choose another {what}") from None


def write_atomically(path: Path, content: bytes) -> None:
    """Writes `content` to a temporary file beside `path`, then renames it: readers see all of it or none.

    Raises OSError naming `path`; in that case nothing is left behind, and any previous file is intact.
    """
    temporary = _beside(path)
    try:
        if path.exists() and not path.is_file():  # a rename would replace a device such as /dev/null
            raise OSError(errno.EEXIST, "it exists and is not a plain file")
        with temporary.open("xb") as file:
            file.write(content)
            _sync(file)
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        with suppress(OSError):
            temporary.unlink()  # already renamed on success


@contextmanager
def new_folder(out: Path, *, marker: str, replace: bool = False) -> Generator[Path]:
    """Yields a folder whose content is moved to `out` when the block ends; on any error nothing is left behind.

    `out` must be new or an empty folder, unless `replace` is set. A new one is created by a rename. An empty one may be a mount
    point, or lie in a folder that is not writable: then files are moved into it one by one, `marker` last, so that a folder with a
    marker is complete. Leftovers of killed calls for a new `out` are removed. Raises ValueError with one sentence for any other
    folder, or one that cannot be written.
    """
    out = out if replace else out.resolve()
    temporary = old = locked = None
    moved: list[Path] = []
    try:
        if inside := not replace and out.exists():
            _require_empty(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        place = out / out.name if inside else out
        if not replace:
            _remove_leftovers(place)
        temporary = _beside(place)
        temporary.mkdir()
        locked = _locked(temporary)
        yield temporary
        for path in temporary.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    _sync(file)
        if inside:
            _require_empty(out)
            for path in sorted(temporary.iterdir(), key=lambda path: path.name == marker):
                path.rename(out / path.name)
                moved.append(out / path.name)
            moved.clear()
            return
        if replace and (out.exists() or out.is_symlink()):
            out.rename(old := _beside(out))
        try:
            temporary.rename(out)
        except OSError:
            if old is not None:
                before, old = old, None  # kept if this fails too
                before.rename(out)
            raise
    except OSError as error:
        raise ValueError(f"{out} cannot be written: {error.strerror or error}") from None
    finally:
        for path in (*moved, *filter(None, (temporary, old))):
            remove(path)
        if locked is not None:
            os.close(locked)


def _locked(folder: Path) -> int | None:
    """Descriptor that holds the folder's lock; None if another process holds it, or the file system has no locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove_leftovers(out: Path) -> None:
    """Removes folders that `new_folder` created for `out` and that no process holds any longer."""
    for path in out.parent.iterdir():
        if re.fullmatch(re.escape(f".{out.name}.") + "[0-9a-f]{8}", path.name) and path.is_dir() and not path.is_symlink():
            with suppress(OSError):
                if (descriptor := _locked(path)) is not None:
                    remove(path)
                    os.close(descriptor)


def _require_empty(out: Path) -> None:
    """Requires an empty folder, ignoring leftovers of killed calls and the `lost+found` of a mounted file system."""
    if not out.is_dir() or any(not path.name.startswith((f".{out.name}.", "lost+found")) for path in out.iterdir()):
        raise ValueError(f"{out} exists and is not an empty folder; allowed: a folder that is new or empty")


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def remove(path: Path) -> None:
    """Removes a file, link or folder as far as possible."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _sync(file: Any) -> None:
    """Flushes to disk, where the file system supports it, so that a machine crash leaves no partial file."""
    file.flush()
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
