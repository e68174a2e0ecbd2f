"""Registries of tasks, probes, and every part of a training recipe, by name.

Ours are the modules of one package, one file per kind; other distributions add theirs by entry points.
"""

import difflib
import functools
from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from types import ModuleType
from typing import Any, Generic, TypeVar

MAX_NAME = 100
"""Characters of an unknown name that a message quotes."""
T = TypeVar("T")
Class = TypeVar("Class")


class Registry(Generic[T]):
    """Name -> registered object. Modules and entry points are loaded on first use."""

    def __init__(self, word: str, package: str, name_of: Callable[[Any], str], group: str | None = None) -> None:
        """`word` is what messages call one of them; the modules of `package` register ours on import; other distributions register
        theirs under the entry-point group `group` (default: the name of `package`).
        """
        self.word, self._package, self._name_of, self._group = word, package, name_of, group or package
        self._known: dict[str, T] = {}

    def register(self, thing: Class) -> Class:
        """Decorator. Raises ValueError if something else is registered under the same name."""
        name = self._name_of(thing)
        new: Any = thing
        known: Any = self._known.get(name, thing)
        if (known.__module__, known.__qualname__) != (new.__module__, new.__qualname__):
            raise ValueError(f"two {self.word}s are called {name!r}: {known.__module__} and {new.__module__}")
        self._known[name] = new
        return thing

    @functools.cached_property
    def all(self) -> dict[str, T]:
        """Everything registered, by name, ours first. Raises ValueError with one sentence if another package's is broken."""
        package = import_module(self._package)
        for module in iter_modules(package.__path__):
            import_module(f"{self._package}.{module.name}")
        for entry in entry_points(group=self._group):
            try:
                loaded = entry.load()
            except Exception as error:  # another package's code may raise anything
                owner = entry.dist.name if entry.dist else "another package"
                reason = " ".join(str(error).split())
                raise ValueError(f"{self.word} {entry.name!r} of {owner} cannot be loaded: {reason}; fix or remove it") from error
            if not isinstance(loaded, ModuleType):  # a module registers by itself
                self.register(loaded)
        return self._known

    def __getitem__(self, name: str) -> T:
        """Raises ValueError with one sentence for an unknown name."""
        if name not in self.all:
            raise ValueError(f"unknown {self.word} {name[:MAX_NAME]!r}; {did_you_mean(name[:MAX_NAME], self.all)}")
        return self.all[name]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The closest known name, if there is one, and all allowed names."""
    close = difflib.get_close_matches(name, known, n=1)
    return (f"did you mean {close[0]!r}? " if close else "") + "allowed: " + ", ".join(sorted(known))
