"""`anchorbench new` and the template of docs/: installed and tested as a user would, and bad names are refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Cli, bytes_of, require_one_sentence

from anchorbench.cli.new import EXAMPLES

TEMPLATE = ROOT / "docs" / "template"


def test_the_template_and_every_skeleton_are_installed_and_pass_their_tests(cli: Cli, tmp_path: Path) -> None:
    sources, tests, installed = tmp_path / "sources", tmp_path / "tests", tmp_path / "installed"
    tests.mkdir()
    for kind in EXAMPLES:
        shown = cli("new", kind, f"my-{kind}", "--out", sources / kind)
        assert (shown.code, shown.err) == (0, "")
        assert shown.out.startswith(f"{kind} my-{kind}: {sources / kind / f'anchorbench_my_{kind}.py'}; install it")
        (test,) = (sources / kind).glob("test_*.py")
        test.rename(tests / test.name)  # away from the module beside it: the installed one is tested
    packages = [TEMPLATE, *sources.iterdir()]
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    done = subprocess.run([*pip, "--target", installed, *packages], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list(installed.glob("*.dist-info"))) == len(EXAMPLES) + 1
    paths = os.pathsep.join(map(str, [installed, *filter(None, [os.environ.get("PYTHONPATH")])]))
    pytest_command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-o", "addopts=", "-p", "no:cacheprovider", "-W", "error"]
    done = subprocess.run(
        [*pytest_command, str(tests), str(TEMPLATE / "tests"), "--rootdir", str(tests)],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "32 passed" in done.stdout


@pytest.mark.parametrize("kind", EXAMPLES)
def test_no_word_of_the_example_is_left(cli: Cli, tmp_path: Path, kind: str) -> None:
    assert cli("new", kind, f"my-{kind}", "--out", tmp_path / "out").code == 0
    files = bytes_of(tmp_path / "out")
    assert set(files) == {"pyproject.toml", f"anchorbench_my_{kind}.py", f"test_anchorbench_my_{kind}.py"}
    for content in files.values():
        assert not {word for word in (*EXAMPLES[kind], "my_parts", "my-parts") if word.encode() in content}
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--check", "--line-length", "132", tmp_path / "out"], check=False
    )
    assert done.returncode == 0


def test_the_folder_is_named_after_the_part(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("new", "task", "halves").code == 0
    assert (tmp_path / "halves" / "anchorbench_halves.py").exists()
    before = bytes_of(tmp_path)
    again = cli("new", "task", "halves")
    assert again.code == 2
    require_one_sentence(again.err)
    assert bytes_of(tmp_path) == before


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("taks", "mine", "unknown kind 'taks'; did you mean 'task'? allowed: claim, initializer, model, optimizer"),
        ("task", "composite", "name 'composite' is taken by another task"),
        ("probe", "attention-flow", "name 'attention_flow' is taken by another probe"),
        ("optimizer", "adamw", "name 'adamw' is taken by another optimizer"),
        *(
            ("task", name, f"name is {name!r}; allowed: lower-case")
            for name in ("", "Mine", "a_b", "-a", "a-", "a--b", "9a", "ä", "../a")
        ),
        ("schedule", "a" * 41, "allowed: lower-case"),
        ("probe", "lambda", "name is 'lambda', a word of Python or of the example"),
        ("schedule", "none", "name is 'none', a word of Python"),
        ("task", "group", "name is 'group', a word of Python or of the example"),
    ],
)
def test_a_bad_name_is_one_sentence_and_writes_nothing(cli: Cli, tmp_path: Path, kind: str, name: str, said: str) -> None:
    refused = cli("new", "--out", tmp_path / "out", "--", kind, name)
    assert (refused.code, refused.out) == (2, "")
    require_one_sentence(refused.err)
    assert said in refused.err
    assert list(tmp_path.iterdir()) == []
