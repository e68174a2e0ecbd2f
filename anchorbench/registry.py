"""Where kinds of things are found by name: tasks, probes, and every part of a way of training.

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
    """Name -> what is registered under it. Modules and entry points are loaded on the first look."""

    def __init__(self, word: str, package: str, name_of: Callable[[Any], str], group: str | None = None) -> None:
        """`word` names one of them in messages; the modules of `package` register ours when they are imported; other distributions
        register theirs under the entry-point group `group` (the package's own name if not given).
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
        """Every registered thing by name: ours first. Raises ValueError with one sentence if one of another package is broken."""
        package = import_module(self._package)
        for module in iter_modules(package.__path__):
            import_module(f"{self._package}.{module.name}")
        for entry in entry_points(group=self._group):
            try:
                loaded = entry.load()
            except Exception as error:  # another package's code: anything may go wrong in it
                owner = entry.dist.name if entry.dist else "another package"
                reason = " ".join(str(error).split())
                raise ValueError(f"{self.word} {entry.name!r} of {owner} cannot be loaded: {reason}; mend or remove it") from error
            if not isinstance(loaded, ModuleType):  # a module registers by itself
                self.register(loaded)
        return self._known

    def __getitem__(self, name: str) -> T:
        """Raises ValueError with one sentence for an unknown name."""
        if name not in self.all:
            raise ValueError(f"unknown {self.word} {name[:MAX_NAME]!r}; {did_you_mean(name[:MAX_NAME], self.all)}")
        return self.all[name]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The closest known name, if one is close, and all that are allowed."""
    close = difflib.get_close_matches(name, known, n=1)
    return (f"did you mean {close[0]!r}? " if close else "") + "allowed: " + ", ".join(sorted(known))
