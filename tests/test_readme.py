"""The README's Python is run as it stands, on a model that the test trains; its commands are the ones that exist."""

import re
from pathlib import Path

import pytest

from anchorbench import cli

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_example_runs_and_says_what_the_model_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as exit_:
        cli.app(["run", "--variant", "conflict", "--gamma", "0.5", "--seeds", "1", "--steps", "4", "--out", str(out)])
    assert exit_.value.code in (0, None)
    run = next((out / "runs").iterdir())
    capsys.readouterr()
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert code.count("RUN_ID") == 1
    exec(re.sub(r'"[^"]*RUN_ID"', repr(str(run)), code), {})  # noqa: S102 - our own text
    first, rivals, verdict = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"(\S+ ){9}-> \d+", first)
    assert rivals.startswith("{'inferential': ")
    assert verdict.startswith("unfit Share(hits=")


def test_it_fits_on_a_few_screens_and_its_links_lead_somewhere() -> None:
    assert len(README.splitlines()) < 150
    root = Path(__file__).parent.parent
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (root / target).exists(), target


@pytest.mark.parametrize("command", re.findall(r"`anchorbench ([a-z]+)", README))
def test_every_command_that_it_names_exists(command: str) -> None:
    names = {info.name or info.callback.__name__ for info in cli.app.registered_commands if info.callback}
    assert command in names | {group.name for group in cli.app.registered_groups}
