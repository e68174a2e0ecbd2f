"""What the initialization rate does without scale: nothing can be told of models that are not trained."""

from claim_runs import require_findings, run, short

from anchorbench.claim import CANNOT, claims


def test_rate_without_scale() -> None:
    found = run("rate-without-scale", seeds=2, looks=2, **short("rate-without-scale", plain=2, same=2, invariant=2))
    require_findings("rate-without-scale", found)
    assert claims["rate-without-scale"].judge(found.measures) == CANNOT, "nothing is fit in two steps"
    assert found.passes == 3 * 2 * 2 * 2
