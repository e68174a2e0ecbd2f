"""Mutated files, with fixed seeds: what a stranger's file, a broken disk or a slip of the keyboard may hold."""

import copy
import json
import random
import struct
from collections.abc import Iterator
from typing import Any

TOKENS = (
    b"null", b"true", b"NaN", b"-Infinity", b".inf", b"1e999", b"1e308", b"-1", b"0", b"1.5", b"1e3", b"0x7f", b"010", b"30:00",
    b"9" * 30, b"9" * 5000, b"9223372036854775808", b"2026-01-01", b"!!int ''", b"!!timestamp x", b"!!python/name:os.system ''",
    b"&a [*a]", b"*a", b"<<: {a: 1}", b"[" * 50, b"{" * 3000, b"- " * 500, b'"', b"'", b"\\", b"\\ud800", b"\\u0000", b"\x00",
    b"\x1b[31m", b"\xff\xfe", b"\xe2\x80\xae", b"\r", b"\n", b"\n---\n", b"%YAML 9.9\n", b"? ", b": ", b", ", b"#", b"|", b">",
    b'"\\UFFFFFFFF"', b"../../../etc/passwd", b"/dev/zero", b"a" * 3000, b"{}", b"[]", b'""', b"--- !!set {a}", b"@", b"`", b"%",
)  # fmt: skip
ODD: tuple[Any, ...] = (
    None, True, False, "", "x", "1", "x" * 3000, "\u202e", "\x00", "\x1b[31m", "a\nb", -1, 0, 1, 2, 3, 7, 64, 1000, 2**31, 2**63,
    10**25, -(10**25), 0.5, 1.5, -0.0, 1e308, 1e-308, [], {}, [[]], [1, 2], [[3, 4], [4, 3]], {"a": 1}, {"1": 2}, "fp32", "pre",
    "composite", "conflict", "identity", [None] * 50, "../..", "inferential", ["a"], [True], [10**12], {"": None}, [{}], [0.1, 0.2],
)  # fmt: skip


def changed_bytes(data: bytes, rng: random.Random) -> bytes:
    """One to three changes of the text itself."""
    for _ in range(rng.randint(1, 3)):
        at, end = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
        lines = data.split(b"\n")
        match rng.randrange(8):
            case 0 if data:
                data = data[: at - 1] + bytes([data[at - 1] ^ (1 << rng.randrange(8))]) + data[at:] if at else data[1:]
            case 1:
                data = data[:at]
            case 2:
                data = data[:at] + rng.choice(TOKENS) + data[at:]
            case 3:
                data = data[:at] + rng.choice(TOKENS) + data[min(end, at + 12) :]
            case 4:
                line = rng.randrange(len(lines))
                data = b"\n".join([*lines[: line + 1], *lines[line:]])
            case 5:
                rng.shuffle(lines)
                data = b"\n".join(lines)
            case 6:
                data = data[:at] + data[min(end, at + 30) :]
            case _:
                data = data[:at] + data[at : at + 40] + data[at:]
    return data


def changed_value(content: Any, rng: random.Random) -> Any:
    """One to three values anywhere replaced, removed, doubled or renamed."""
    content = copy.deepcopy(content)
    for _ in range(rng.randint(1, 3)):
        inner, steps = content, rng.randint(0, 5)
        parent, key = None, None
        while isinstance(inner, dict | list) and inner and steps >= 0:
            parent, key = inner, rng.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
            inner, steps = inner[key], steps - 1
        if parent is None:
            return rng.choice(ODD)
        match rng.randrange(6):
            case 0:
                del parent[key]
            case 1 if isinstance(parent, dict):
                parent[rng.choice(["", "x", "seed", "steps", "__proto__", "1", str(key).upper()])] = inner
            case 1:
                parent.insert(key, inner)
            case 2 if isinstance(inner, list | dict):
                parent[key] = [inner] if rng.random() < 0.5 else {"x": inner}
            case 3 if isinstance(inner, int | float) and not isinstance(inner, bool):
                parent[key] = rng.choice([-inner, inner + 1, inner * 10**9, inner / 3, str(inner), inner * 1e-9])
            case _:
                parent[key] = copy.deepcopy(rng.choice(ODD))
    return content


def changed(data: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """`count` changed versions of a file; every second one of JSON keeps its form and has other values."""
    rng = random.Random(seed)  # noqa: S311 - not for secrets
    try:
        content = json.loads(data)
    except ValueError:
        content = None
    for number in range(count):
        if content is not None and number % 2:
            yield json.dumps(changed_value(content, rng)).encode()
        else:
            yield changed_bytes(data, rng)


def changed_safetensors(data: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """The same of a safetensors file: its header's values, its header's text, or any byte."""
    rng = random.Random(seed)  # noqa: S311 - not for secrets
    (size,) = struct.unpack("<Q", data[:8])
    header, rest = json.loads(data[8 : 8 + size]), data[8 + size :]
    for number in range(count):
        if number % 3 == 0:
            text = json.dumps(changed_value(header, rng)).encode()
            yield struct.pack("<Q", len(text)) + text + rest
        elif number % 3 == 1:
            yield struct.pack("<Q", rng.choice([0, 1, size - 1, size + 1, 2**20, 2**40, 2**63])) + data[8:]
        else:
            yield changed_bytes(data, rng)
