"""The docs site builds without a warning and without a network, the references are complete, the tutorials run as they stand."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from commands import COMMANDS
from conftest import ROOT

import anchorbench
from anchorbench.cli.main import app
from anchorbench.hub.card import Manifest
from anchorbench.machine import Machine
from anchorbench.model.counts import parameters
from anchorbench.probes import list_probes
from anchorbench.recipe import Recipe
from anchorbench.sweeps.run_folder import Result
from anchorbench.train.trajectory import TrajectoryPoint
from anchorbench.verdict import FEW, FIT, MOST

DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "ledger" not in path.parts)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed; pip install anchorbench[docs]")
    pytest.importorskip("mkdocstrings", reason="mkdocstrings is not installed; pip install anchorbench[docs]")
    out = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}  # an advertisement of the theme's authors
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return out


def text_of(site: Path, page: str) -> str:
    return (site / page / "index.html").read_text()


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        loaded = re.findall(r"<(?:script|img|link|iframe)\b[^>]*?\b(?:src|href)=\"?(https?:[^\s\">]+)", page.read_text())
        assert [address for address in loaded if not address.startswith("https://arxiv.org/")] == [], page


def test_every_command_and_option_is_in_the_reference(site: Path) -> None:
    page = re.sub(r"<a .*?</a>", "", text_of(site, "reference/cli"))
    sections = dict(re.findall(r"<h[23] [^>]*><code>([^<]+)</code>(.*?)(?=<h[23] |$)", page, re.DOTALL))
    assert len(COMMANDS) > 25
    for name, command in COMMANDS.items():
        section = sections[f"anchorbench {name.replace('probe one', 'probe NAME')}"]
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert all(re.search(rf"<code>[^<]*{option}\b", section) for option in parameter.opts), (name, parameter.opts)
        assert section.count("<li><code>") == len(command.get_params(typer.Context(command, **app.info.context_settings))), name


def test_every_field_of_a_recipe_is_in_the_reference(site: Path) -> None:
    page = text_of(site, "reference/recipe")
    recipe = Recipe()
    for config in (recipe, recipe.model, recipe.init, recipe.optimizer):
        for field in set(type(config).model_fields) - {"kind"}:
            assert f"<td><code>{field}</code></td>" in page
    for bound in ("at most 100,000,000", "above 0, at most 100"):
        assert bound in page


def test_the_fields_of_files_are_in_the_reference(site: Path) -> None:
    page = text_of(site, "reference/files")
    assert "fields of" not in page
    for model in (Result, Machine, TrajectoryPoint, Manifest):
        for field in model.model_fields:
            assert f"<td><code>{field}</code></td>" in page


def test_every_public_name_and_probe_is_in_the_reference(site: Path) -> None:
    headings = re.findall(r"<h3 [^>]*>\s*([\w.]+)\s", text_of(site, "reference/python"))
    own = [name for name, probe in list_probes(on_request=True).items() if probe.__module__.startswith("anchorbench.")]
    assert {f"anchorbench.{name}" for name in anchorbench.__all__} <= set(headings)
    assert {f"anchorbench.probes.{name}" for name in own} <= set(headings)


def test_the_galleries_are_those_of_the_repository(site: Path) -> None:
    for name, _ in anchorbench.list_tasks():
        assert f'id="{name}"' in text_of(site, "tasks")
    assert (site / "ledger" / "page.html").read_bytes() == (DOCS / "ledger" / "index.html").read_bytes()
    assert 'href="page.html"' in text_of(site, "ledger")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_links_lead_somewhere(page: Path) -> None:
    """Also those that leave docs/, as they stand in the repository; pages of the reference are generated."""
    generated = {DOCS / "reference" / f"{name}.md" for name in ("python", "cli", "recipe")}
    for target in re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", page.read_text()):
        path = (page.parent / target).resolve()
        assert path.exists() or path in generated, target


def test_the_figures_of_the_page_about_verdicts() -> None:
    """Those that the README states too are recomputed by test_readme.py; here they must be the README's."""
    page, readme = (" ".join(path.read_text().split()) for path in (DOCS / "verdicts.md", ROOT / "README.md"))
    found = json.loads((DOCS / "validation.json").read_text())
    error, coverage = (found["all"][name]["value"] for name in ("error", "coverage"))
    assert f"on average it errs by {error:.2f}, and its 90% interval covers {coverage:.0%}" in page
    ((runs, composing, memorizing),) = re.findall(r"of (\d+) runs of \[a study\].*? (\d+) compose an .*? (\d+) memorize", readme)
    assert f"of {runs} runs of [a study](suite.md) that fit `conflict-control` and answer the mirror symmetrically" in page
    assert f"{composing} compose an ordinary held-out pair, and {memorizing} memorize" in page
    for threshold in (f"below {FIT:.0%} accuracy", f"above {MOST:.0%}", f"below {FEW:.0%}"):
        assert threshold in page
    task, model = anchorbench.load_task("composite"), Recipe().model
    assert f"1 of {round(1 / task.chance)} answers" in page
    assert f"about {round(parameters(model, task.vocab_size, task.seq_len), -3):,} weights" in page


# --- The tutorials

BLOCK = re.compile(r'<!-- executed -->\n```(sh|python)\n(.*?)```|```(yaml) title="([^"]+)"\n(.*?)```', re.DOTALL)
SMALLER = {
    "--steps 300": "--steps 10",
    "steps=300": "steps=10",
    "--steps 200": "--steps 10",
    "steps: 200": "steps: 10\ndata_size: 500\noptimizer: {warmup: 2}",
    "data_size: 5000\n": "",
    "seed: 2\n": "seed: 1\n",
    "--size 20000": "--size 500",
    "max_steps=1000": "max_steps=5",
}
"""What the tests train for fewer steps than readers do."""
OUTCOMES = {
    "index.md": [r"composite, heldout-both: means over seeds", r"forecast", r"underfit Share\(hits="],
    "tutorials/task.md": [r"2 passed", r"my-task, default: means over seeds"],
    "tutorials/trainer.md": [r"20,?\d* rows|500 rows|1,500 rows", r"underfit Share\(hits="],
    "tutorials/training.md": [
        r"4 passed",
        r"multiplier of lr",
        r"4 runs, 0 finished",
        r"my-optimizer +cosine",
        r"\n +my-schedule +0",
    ],
    "tutorials/board.md": [
        r"registrations/warm-up\.yaml: [0-9a-f]{16}, seeds by drand quicknet",
        r"valid, gamma 0\.8, score 0\.66; registered",
    ],
}
PIP = """#!/bin/sh
for word in "$@"; do shift; case "$word" in install|-e) ;; *) set -- "$@" "./$word" ;; esac; done
exec "{python}" -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation --target "{installed}" "$@"
"""
"""Stands in for pip: what a tutorial installs goes into a folder of the test."""


def test_each_tutorial_has_an_expected_outcome() -> None:
    assert set(OUTCOMES) == {str(page.relative_to(DOCS)) for page in PAGES if "<!-- executed -->" in page.read_text()}
    executed = "".join("".join(found) for page in OUTCOMES for found in BLOCK.findall((DOCS / page).read_text()))
    assert [text for text in SMALLER if text not in executed] == []


@pytest.mark.parametrize("page", OUTCOMES)
def test_it_runs_to_its_outcome(page: str, tmp_path: Path) -> None:
    here, programs, installed = tmp_path / "here", tmp_path / "bin", tmp_path / "installed"
    here.mkdir()
    programs.mkdir()
    (programs / "pip").write_text(PIP.format(python=sys.executable, installed=installed))
    (programs / "pip").chmod(0o755)
    shutil.copytree(ROOT / "leaderboard", here / "leaderboard")
    paths = [str(installed), str(ROOT)]
    environment = os.environ | {
        "PATH": os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join(paths),
        "COLUMNS": "100",
    }
    said = ""
    for kind, code, _, name, yaml in BLOCK.findall((DOCS / page).read_text()):
        for text, smaller in SMALLER.items():
            code, yaml = code.replace(text, smaller), yaml.replace(text, smaller)  # noqa: PLW2901
        if name:
            (here / name).write_text(yaml)
            continue
        command = ["bash", "-euo", "pipefail", "-c", code] if kind == "sh" else [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, code + done.stdout + done.stderr
        said += done.stdout
    for pattern in OUTCOMES[page]:
        assert re.search(pattern, said), (pattern, said)
