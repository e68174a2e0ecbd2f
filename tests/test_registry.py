"""The registry: names are unique, unknown ones get a sentence, and what other packages bring is loaded or named."""

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, EntryPoints
from types import ModuleType
from typing import Any

import pytest

from anchorbench.registry import Registry


def things(monkeypatch: pytest.MonkeyPatch, **entries: Callable[[], object]) -> Registry[Any]:
    """A registry whose package has the kinds `alpha` and `beta`, and whose entry points load what is given."""
    package = ModuleType("things")
    package.__path__ = []
    monkeypatch.setitem(sys.modules, "things", package)
    registry: Registry[Any] = Registry("thing", "things", lambda thing: thing.__name__)
    registry.register(made("alpha")), registry.register(made("beta"))

    class Entry(EntryPoint):
        def load(self) -> object:
            return entries[self.name]()

    points = EntryPoints(Entry(name, "somewhere", "things") for name in entries)
    monkeypatch.setattr("anchorbench.registry.entry_points", lambda group: points.select(group=group))
    return registry


def made(name: str, module: str = "things.own") -> Any:
    return type(name, (), {"__module__": module})


def test_ours_come_first_and_a_module_registers_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    gamma = made("gamma", "other")
    registry = things(monkeypatch, gamma=lambda: gamma, module=lambda: ModuleType("other"))
    assert list(registry.all) == ["alpha", "beta", "gamma"]
    assert registry["gamma"] is gamma


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("alpa", "unknown thing 'alpa'; did you mean 'alpha'? allowed: alpha, beta"),
        ("x", "unknown thing 'x'; allowed: alpha, beta"),
    ],
)
def test_an_unknown_name_is_one_sentence(monkeypatch: pytest.MonkeyPatch, name: str, sentence: str) -> None:
    with pytest.raises(ValueError) as refusal:
        things(monkeypatch)[name]
    assert str(refusal.value) == sentence


def test_two_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"^two things are called 'beta': things.own and other$"):
        things(monkeypatch, beta=lambda: made("beta", "other")).all  # noqa: B018 - the first look loads them


def test_a_class_that_is_defined_again_replaces_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    registry, again = things(monkeypatch), made("beta")
    registry.register(again)
    assert registry["beta"] is again


@pytest.mark.parametrize("error", [ImportError("no module\nnamed x"), RuntimeError("boom"), AttributeError("no y")])
def test_what_another_package_breaks_is_named(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def broken() -> object:
        raise error

    with pytest.raises(ValueError, match=r"^thing 'delta' of another package cannot be loaded: .*; fix or remove it$") as refusal:
        things(monkeypatch, delta=broken)["alpha"]
    assert "\n" not in str(refusal.value)
