"""Checks, while tests run, the shapes that annotations promise: of every function, method and dataclass of the package with one.
Importing this module starts it, for what is imported later.

jaxtyping's own import hook wraps every function, also those without arrays, which made the suite three times as slow.
"""

import sys
from collections.abc import Iterable
from dataclasses import is_dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import FunctionType, ModuleType
from typing import Any

from beartype import beartype
from jaxtyping import jaxtyped

PACKAGE = "anchorbench"


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name.startswith(f"{PACKAGE}.") else None
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        _wrap_all(module, module.__name__)


def _wrap_all(owner: Any, module: str) -> None:
    for name, value in list(vars(owner).items()):
        if isinstance(value, type) and value.__module__ == module and value is not owner:
            _wrap_all(value, module)
            if is_dataclass(value) and _promises(value.__annotations__.values()):
                jaxtyped(value, typechecker=beartype)
        elif (wrapped := _wrapped(value, module)) is not None:
            setattr(owner, name, wrapped)


def _wrapped(value: Any, module: str) -> Any:
    """The function, method or property with its shapes checked; None if it promises none, or is another module's."""
    if isinstance(value, classmethod | staticmethod):
        inner = _wrapped(value.__func__, module)
        return None if inner is None else type(value)(inner)
    if isinstance(value, property):
        inner = _wrapped(value.fget, module)
        return None if inner is None else property(inner, doc=value.__doc__)
    if isinstance(value, FunctionType) and value.__module__ == module and _promises(value.__annotations__.values()):
        return jaxtyped(value, typechecker=beartype)
    return None


def _promises(annotations: Iterable[Any]) -> bool:
    return any("jaxtyping." in str(annotation) for annotation in annotations)


assert not [name for name in sys.modules if name.startswith(f"{PACKAGE}.")], "imported before its shapes could be checked"
sys.meta_path.insert(0, _Finder())
