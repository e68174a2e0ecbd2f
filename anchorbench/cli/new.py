"""`anchorbench new`: a package with one part of your own, from the template that lies in docs/template."""

import keyword
import re
from pathlib import Path
from typing import Any

from anchorbench.claim import claims
from anchorbench.files import new_folder
from anchorbench.parts import REGISTRIES
from anchorbench.probes import probes
from anchorbench.registry import Registry, did_you_mean
from anchorbench.task import tasks

TEMPLATE = Path(__file__).parents[1] / "template"
EXAMPLES = {
    "task": ("successor", "Successor"),
    "probe": ("attention_on_key", "AttentionOnKey"),
    "claim": ("smaller-start", "SmallerStart"),
    "initializer": ("truncated", "Truncated"),
    "optimizer": ("signum", "Signum"),
    "schedule": ("triangle", "Triangle"),
    "model": ("squared-relu", "SquaredReLU"),
    "penalty": ("l2", "L2"),
}
"""Kind -> the template's example of it: its name, and how its classes begin."""
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
MAX_NAME = 40


def write_skeleton(kind: str, name: str, out: Path) -> Path:
    """Writes the template's example of this kind under another name to the folder `out`, new or empty; returns the module's path.

    Raises ValueError with one sentence for an unknown kind, a bad name or one that is taken, and a folder that cannot be written.
    """
    if kind not in EXAMPLES:
        raise ValueError(f"unknown kind {kind[:MAX_NAME]!r}; {did_you_mean(kind[:MAX_NAME], EXAMPLES)}")
    if len(name) > MAX_NAME or not NAME.fullmatch(name):
        allowed = f"lower-case letters, digits and single hyphens, from a letter on, at most {MAX_NAME}, such as my-{kind}"
        raise ValueError(f"name is {name[:MAX_NAME]!r}; allowed: {allowed}")
    entry = name.replace("-", "_") if kind == "probe" else name
    title = "".join(word.capitalize() for word in name.split("-"))
    registry: Registry[Any] = {"task": tasks, "probe": probes, "claim": claims, **REGISTRIES}[kind]
    if entry in registry.all:
        raise ValueError(f"name {entry!r} is taken by another {kind}; allowed: another name")
    example, example_title = EXAMPLES[kind]
    example_module, module = example.replace("-", "_"), f"anchorbench_{name.replace('-', '_')}"
    used = re.findall(r"\w+", (TEMPLATE / f"my_parts/{example_module}.py").read_text())
    if {title, entry} & {*keyword.kwlist, *used}:
        raise ValueError(f"name is {name!r}, a word of Python or of the example; allowed: another name")

    def renamed(text: str) -> str:
        for old, new in ((f"my_parts.{example_module}", module), (example_title, title), (example, entry)):
            text = text.replace(old, new)
        return text

    def of_template(file: str) -> str:
        return renamed((TEMPLATE / file).read_text())

    head, *points = (TEMPLATE / "pyproject.toml").read_text().split("\n[project.entry-points")
    (point,) = (text for text in points if f"\n{example} = " in text)
    head = head.replace("my-parts", f"anchorbench-{name}")
    head = head.replace("A task, a probe, a claim and parts of a training recipe", f"The {kind} {name}")
    with new_folder(out, marker="pyproject.toml") as folder:
        (folder / f"{module}.py").write_text(of_template(f"my_parts/{example_module}.py"))
        (folder / f"test_{module}.py").write_text(of_template(f"tests/test_{example_module}.py"))
        (folder / "pyproject.toml").write_text(f"{head}\n[project.entry-points{renamed(point)}".rstrip() + "\n")
    return out / f"{module}.py"
