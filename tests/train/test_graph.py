"""Steps as a GPU would record them, run here one operation after the other: the same training as the usual steps."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, Cli, require_one_sentence

from anchorbench.machine import use_device
from anchorbench.recipe import Recipe
from anchorbench.train.stack import Stack

WAYS: dict[str, dict[str, Any]] = {
    "adamw": {},
    "amsgrad": {"optimizer": {"kind": "amsgrad", "warmup": 2, "beta2": 0.9}},
    "polyak": {"optimizer": {"kind": "sgd", "warmup": 2, "lr": 0.1}},
    "nesterov": {"optimizer": {"kind": "sgd", "warmup": 2, "lr": 0.1, "nesterov": True}},
    "coupled": {"optimizer.weight_decay": 0.1, "optimizer.decay": "coupled"},
    "unscaled, not on embeddings": {
        "optimizer.weight_decay": 0.01, "optimizer.decay": "unscaled", "optimizer.decay_embeddings": False
    },
    "unclipped": {"optimizer.clip": "none"},
    "clipped": {"optimizer.clip": 0.05},
}  # fmt: skip


def recipes(fields: dict[str, Any]) -> list[Recipe]:
    """Three members that share data or not, with rates and betas of their own; widths that a batched matmul treats alike."""
    base = TINY.override({"steps": 80, "batch": 32, **fields})
    return [base, base.override({"order_seed": 5, "optimizer.lr": base.optimizer.lr / 2}), base.override({"seed": 3})]


def trained(fields: dict[str, Any], *, graphed: bool) -> tuple[Stack, torch.Tensor]:
    stack = Stack(recipes(fields), path="backprop")
    stack._graphed = graphed
    losses = torch.empty(0)
    while stack.step < 80:  # more than one block of orders
        losses = stack.advance(80)
    return stack, losses


@pytest.mark.parametrize("way", WAYS)
def test_recorded_steps_train_as_the_usual_ones(way: str) -> None:
    (usual, losses), (graphed, found) = (trained(WAYS[way], graphed=graphed) for graphed in (False, True))
    assert usual._graph is None
    assert graphed._graph is not None
    torch.testing.assert_close(found, losses, rtol=1e-4, atol=1e-5)
    for name, rows in usual.state().items():
        views = zip(usual.layout.names, usual.layout.views(rows), graphed.layout.views(graphed.state()[name]), strict=True)
        for parameter, wanted, got in views:
            if not parameter.endswith("key.bias"):  # its gradient is zero but for rounding, of which Adam makes whole steps
                torch.testing.assert_close(got, wanted, rtol=1e-4, atol=5e-6)


def test_a_resumed_stack_goes_on_with_the_same_bits() -> None:
    whole, _ = trained({}, graphed=True)
    first, second = (Stack(recipes({}), path="backprop") for _ in range(2))
    first._graphed = second._graphed = True
    while first.step < 30:
        first.advance(30)
    second.restore(first.saved(), first.seen(), 30)
    while second.step < 80:
        second.advance(80)
    assert torch.equal(second.weights, whole.weights)


def test_a_precision_of_gpus_is_refused_without_one() -> None:
    with pytest.raises(ValueError, match="precision is tf32; allowed without a GPU: fp32 or bf16"):
        Stack([TINY.override({"precision": "tf32"})])


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:1", "cuda", "x" * 999])
def test_a_device_that_is_not_there_is_one_sentence(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ValueError, match=r"^device is .{2,60}allowed"):
        use_device(name)


@pytest.mark.parametrize(
    ("seen", "name", "left"),
    [(None, "cuda:1", "1"), (None, "cuda", "0"), ("3,5", "cuda:1", "5"), ("GPU-8a,GPU-9b", "cuda", "GPU-8a"), ("3", "cpu", "")],
)
def test_one_device_is_seen(seen: str | None, name: str, left: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As CUDA counts them: those that the process was given, from zero."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # so that what was there comes back
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    if seen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    use_device(name)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == left


def test_without_a_gpu_its_benchmark_is_one_sentence(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    refused = cli("bench", "gpu", "--json", tmp_path / "out.json")
    assert refused.code == 2
    require_one_sentence(refused.err)
    assert not (tmp_path / "out.json").exists()
