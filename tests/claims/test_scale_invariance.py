"""Scale-invariance: what is scaled, which models see it, and stable ranks by hand."""

import numpy as np
import torch
from claim_runs import require_findings, run, short

from anchorbench.claims import scale_invariance, trained
from anchorbench.recipe import parse_recipe
from anchorbench.train.stack import Stack


def invariant_stack() -> Stack:
    """Two members of the claim's scale-invariant model, untrained."""
    recipe = parse_recipe(short("scale-invariance", invariant=4)["invariant"])
    return Stack([recipe.override({"seed": seed}) for seed in range(2)])


def test_the_encoder_is_scaled_and_the_head_is_not() -> None:
    stack = invariant_stack()
    before = [view.clone() for view in stack.layout.views(stack.weights)]
    trained.scale_encoder(stack, [2.0, 0.5])
    for name, old, new in zip(stack.layout.names, before, stack.layout.views(stack.weights), strict=True):
        factors = (1.0, 1.0) if name.startswith("unembedding") else (2.0, 0.5)
        torch.testing.assert_close(new, torch.stack([part * factor for part, factor in zip(old, factors, strict=True)]))


def test_attention_that_cannot_die_does_not_see_the_scale() -> None:
    stack = invariant_stack()
    usual = scale_invariance.dead_rows(stack)
    with scale_invariance.attention_that_cannot_die():
        assert (scale_invariance.dead_rows(stack) == 0).all()
        assert all((found < -9).all() for found in scale_invariance.invariance(stack))
        pattern = stack.model.layers[0].pattern(torch.tensor([[[-3.0, -np.inf], [1.0, -3.0]]]))
    assert pattern.tolist() == [[[1, 0], [0.25, 0.75]]]
    np.testing.assert_array_equal(scale_invariance.dead_rows(stack), usual)
    assert (usual > 0).all(), "of random scores, half of the first positions' are negative"


def test_the_plain_model_sees_the_scale() -> None:
    recipe = parse_recipe(short("scale-invariance", plain=4)["plain"])
    assert all((found > -4).all() for found in scale_invariance.invariance(Stack([recipe])))


def test_stable_rank() -> None:
    """Diagonal matrices: 1 for a single entry, 1 + 1/4 for entries 2 and 1."""
    stack = invariant_stack()
    for view in stack.layout.views(stack.weights):
        if view.dim() == 3:
            view.zero_()
            view[:, 0, 0] = 2
            view[1, 1, 1] = 1
    np.testing.assert_allclose(scale_invariance.stable_ranks(stack), [1, 1.25], rtol=1e-6)


def test_scale_invariance() -> None:
    found = run("scale-invariance", seeds=2, looks=2, **short("scale-invariance", invariant=2, plain=2, usual=2))
    require_findings("scale-invariance", found)
    assert found.measures["invariance"].high < -9
    assert found.measures["rank"].value < 0 < found.measures["rank_large"].value
    assert found.passes == 2 * 2 * (3 * 3 + 2)
