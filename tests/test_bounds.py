"""Every number that is read from outside has both bounds, in every model of the package, and takes numbers only."""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

import anchorbench
from anchorbench.files import Plain
from anchorbench.sweeps.lock import Owner
from anchorbench.sweeps.run_folder import Run
from anchorbench.sweeps.store import StoredRun

LEAST, MOST = {"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"}
INSIDE = {Run, StoredRun}
"""Made of models that were read, by us."""


def models() -> list[type[BaseModel]]:
    for module in pkgutil.walk_packages(anchorbench.__path__, "anchorbench."):
        importlib.import_module(module.name)
    found: list[type[BaseModel]] = []
    left = [BaseModel]
    while left:
        for child in left.pop().__subclasses__():
            left.append(child)
            if child.__module__.startswith("anchorbench.") and child not in (*found, *INSIDE, Plain):
                found.append(child)
    return found


MODELS = models()


def numbers(form: Any, where: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """The numbers of a JSON schema."""
    if isinstance(form, dict):
        if form.get("type") in ("integer", "number"):
            yield where, form
        for key, part in form.items():
            yield from numbers(part, f"{where}.{key}")
    elif isinstance(form, list):
        for part in form:
            yield from numbers(part, where)


def test_the_models_are_all_there() -> None:
    assert {
        "Recipe",
        "OptimizerConfig",
        "ModelConfig",
        "InitConfig",
        "Result",
        "Entry",
        "Manifest",
        "Owner",
        "ScanConfig",
        "KeyConfig",
    } <= {model.__name__ for model in MODELS}


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_number_has_both_bounds(model: type[BaseModel]) -> None:
    unbounded = [
        where
        for where, form in numbers(model.model_json_schema())
        if not ("enum" in form or "const" in form or (LEAST & form.keys() and MOST & form.keys()))
    ]
    assert unbounded == []


@pytest.mark.parametrize("model", [model for model in MODELS if model is not Owner], ids=lambda model: model.__name__)
def test_no_number_is_taken_from_a_bool_or_text(model: type[BaseModel]) -> None:
    """A lock of another version may hold more; all else is refused as soon as a field is unknown or of another kind."""
    assert issubclass(model, Plain)
    for name, field in model.model_fields.items():
        if field.annotation in (int, float, int | None, float | None):
            for value in (True, "1", b"1", [1], 1.5 if field.annotation in (int, int | None) else "1.5"):
                with pytest.raises(ValidationError) as refused:
                    model.model_validate({name: value})
                assert any(problem["loc"][0] == name for problem in refused.value.errors())
