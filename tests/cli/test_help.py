"""Every help explains every option, says what its default is, and ends with an example that the command accepts."""

import re
import shlex

import pytest
from commands import COMMANDS
from conftest import Cli

from anchorbench.probes import list_probes

EVERY = pytest.mark.parametrize("name", COMMANDS)


@EVERY
def test_the_example_is_accepted(name: str) -> None:
    command = COMMANDS[name]
    found = re.fullmatch(r"Example: anchorbench (.+)", command.epilog or "")
    assert found, "add one to anchorbench/cli/examples.py"
    words, own = shlex.split(found[1]), ["probe"] if name == "probe one" else name.split()
    assert words[: len(own)] == own
    command.make_context(name, words[len(own) :])  # an unknown option, or a missing argument, is an error


@EVERY
def test_every_option_is_explained_and_says_its_default(name: str) -> None:
    for parameter in COMMANDS[name].params:
        assert parameter.help, (name, parameter.name)
        optional = not parameter.required and not getattr(parameter, "is_flag", False)
        if optional and parameter.default in (None, (), []):
            assert "default" in parameter.help, (name, parameter.name)


def test_commands_that_train_take_threads_and_device() -> None:
    trains = ("run", "sweep run", "sweep locate", "reproduce", "ways", "leaderboard run", "leaderboard verify", "probe validate")
    for name in trains:
        assert {"threads", "device"} <= {parameter.name for parameter in COMMANDS[name].params}, name
    assert "threads" in {parameter.name for parameter in COMMANDS["classify"].params}


def test_the_probes_are_listed(cli: Cli) -> None:
    shown = cli("probe", "list")
    assert (shown.code, shown.err) == (0, "")
    *lines, last = shown.out.splitlines()
    assert [line.split()[0] for line in lines] == list(list_probes(on_request=True))
    assert all(len(line.split()) > 6 for line in lines)
    assert "all but effective_width, flatness, gradient_noise, complexity" in last
