"""Claims that are run in small, and what has to come out of each."""

from typing import Any

from anchorbench.claim import Findings, claims


def run(name: str, **changed: Any) -> Findings:
    """The claim at laptop scale, with fewer or smaller settings."""
    claim = claims[name]
    settings = claim.scales["laptop"]
    return claim(type(settings).model_validate(settings.model_dump() | changed)).run()


def require_findings(name: str, findings: Findings) -> None:
    assert list(claims[name].measures) == [each for each in claims[name].measures if each in findings.measures]
    assert findings.measures.keys() == claims[name].measures.keys()
    assert 1 <= len(findings.panels) <= 3
    assert findings.passes > 0


def short(name: str, **recipes: int) -> dict[str, Any]:
    """The claim's recipes, cut to so many steps in batches of 8, and to few examples."""
    settings = claims[name].scales["laptop"].model_dump()
    return {recipe: settings[recipe] | {"steps": steps, "batch": 8, "data_size": 100} for recipe, steps in recipes.items()}


def tiny(name: str) -> Findings:
    """A claim on arms with two seeds, each arm a narrow model trained for six steps."""
    settings: Any = claims[name].scales["laptop"]
    small = {"model.d_model": 8, "model.d_head": 8, "model.d_ff": 8, "optimizer.warmup": 0, "batch": 4, "steps": 6, "data_size": 50}
    arms = {label: {**arm, **small} for label, arm in settings.arms.items()}
    kept = [2 + place for place in range(len(settings.keep_steps))]
    claim = claims[name]
    return claim(type(settings).model_validate(settings.model_dump() | {"seeds": 2, "arms": arms, "keep_steps": kept})).run()
