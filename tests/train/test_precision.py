"""bf16: products in half precision, everything that is kept in float32, and when it is chosen."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import Cli, require_one_sentence
from trainings import DIVERGING, MIXED, TINY, advanced, quickly, same_bits

from anchorbench.machine import native_bf16
from anchorbench.presets import PRESETS
from anchorbench.sweeps.run_folder import read_run
from anchorbench.train.checkpoint import resume, save
from anchorbench.train.gradients.choice import NATIVE_WIDTH, auto_precision
from anchorbench.train.loop import train
from anchorbench.train.stack import Stack

BF16 = TINY.override({"precision": "bf16", "model.d_model": 16, "model.d_head": 8, "model.d_ff": 32})
"""Batch and widths are multiples of 16, so that all members are in one batched matmul; others are trained one by one."""


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    with quickly():
        yield


def test_bf16_keeps_weights_and_moments_in_float32() -> None:
    stack = Stack([BF16, BF16.override({"seed": 1})])
    gains = dict(stack.model.named_parameters())["final_norm.weight"]
    assert gains.eq(1).all()
    for _ in range(2):
        stack.advance()
    for rows in (stack.weights, stack.gradients, *stack.state().values(), gains):
        assert rows.dtype == torch.float32
    # two small steps of the warm-up, far below the 2^-8 = .004 by which bf16 could move a weight of 1
    moved = (gains - 1).abs()
    assert 1e-5 < moved.max() < 0.0039
    assert {weight.dtype for member in stack.members() for weight in member.weights.values()} == {torch.float32}


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_in_bf16_a_member_ends_as_it_would_alone(norm: str) -> None:
    base = BF16.override({"model.norm": norm, "steps": 30})
    fields = [*MIXED[:2], DIVERGING, *MIXED[3:]]
    for member, each in zip(train([base.override(each) for each in fields]), fields, strict=True):
        if each is not DIVERGING:
            [alone] = train([base.override(each)])
            assert same_bits(member.weights, alone.weights), each
            assert member.trajectory == alone.trajectory
            assert member.diverged_at is None


def test_in_bf16_a_member_ends_as_it_would_alone_at_the_presets_size() -> None:
    base = PRESETS["laptop"].override({"steps": 2, "optimizer.warmup": 1, "data_size": 300, "precision": "bf16"})
    recipes = [base.override({"seed": seed, "init.gamma": 0.4 + seed / 20}) for seed in range(4)]
    stacks = [train(recipes), train(recipes[:3]), train(recipes[2:3])]
    for stack in stacks[1:]:
        for member in stack:
            assert same_bits(member.weights, stacks[0][member.recipe.seed].weights)


def test_bf16_trains_as_fp32_does() -> None:
    rounded, exact = train([BF16]), train([BF16.override({"precision": "fp32"})])
    losses = [stack[0].trajectory[-1].loss for stack in (rounded, exact)]
    start = math.log(rounded[0].task.vocab_size)
    assert losses[0] == pytest.approx(losses[1], abs=0.05)  # a hundredth of the way from ln 120 down
    assert losses[1] < start - 0.4
    assert not same_bits(rounded[0].weights, exact[0].weights)


def test_in_bf16_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    recipes = [BF16, BF16.override({"seed": 1})]
    stack = advanced(Stack(recipes), 20)
    save(stack, tmp_path / "checkpoint")
    resumed = resume(recipes, tmp_path / "checkpoint")
    for one, other in zip(advanced(stack, 20).members(), advanced(resumed, 20).members(), strict=True):
        assert same_bits(one.weights, other.weights)


def test_a_stack_has_one_precision() -> None:
    with pytest.raises(ValueError, match="these have 2"):
        Stack([BF16, BF16.override({"precision": "fp32"})])


CAPABILITIES: dict[str, tuple[dict[str, bool], bool]] = {
    "AVX-512": ({"avx512_bf16": True, "amx_bf16": False}, False),
    "AMX": ({"avx512_bf16": False, "amx_bf16": True}, True),
    "neither": ({"avx512_bf16": False, "amx_bf16": False, "avx512_f": True}, False),
    "unknown": ({}, False),
}


def set_processor(monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool]) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities)
    monkeypatch.setattr("anchorbench.machine.native_bf16", native_bf16)  # which the other tests pin


@pytest.mark.parametrize("name", CAPABILITIES)
def test_native_bf16_is_what_the_processor_says(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    capabilities, native = CAPABILITIES[name]
    set_processor(monkeypatch, capabilities)
    assert native_bf16() is native


@pytest.mark.parametrize(("capability", "native"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_native_bf16_of_a_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], native: bool) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: capability)
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"amx_bf16": not native})
    assert native_bf16() is native


RUN = ("run", "--gamma", "0.5", "--seeds", "1")


@pytest.mark.parametrize(
    ("name", "compiled", "options", "expected"),
    [
        ("AMX", True, (), "fp32"),
        ("AMX", False, (), "bf16"),
        ("neither", False, (), "fp32"),
        ("AMX", False, ("--precision", "auto"), "bf16"),
        ("AVX-512", False, ("--precision", "auto"), "fp32"),
        ("AMX", False, ("--precision", "fp32"), "fp32"),
        ("neither", True, ("--precision", "bf16"), "bf16"),
    ],
)
def test_the_precision_is_what_is_asked_for_or_what_trains_fastest(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, compiled: bool, options: tuple[str, ...], expected: str
) -> None:
    """Without being asked, bf16 only where there is no compiled step and the processor multiplies matrices in it."""
    set_processor(monkeypatch, CAPABILITIES[name][0])
    if not compiled:
        monkeypatch.setattr("anchorbench.train.gradients.native.available", lambda: False)
    shown = cli(*RUN, *options, "--out", tmp_path / "out")
    assert (shown.code, shown.err) == (0, "")
    [folder] = (tmp_path / "out" / "runs").iterdir()
    assert read_run(folder).recipe.precision == expected
    assert ("bf16" in shown.out) == (expected == "bf16")  # and it is said


def with_amx(monkeypatch: pytest.MonkeyPatch, *, compiled: bool = True) -> None:
    set_processor(monkeypatch, CAPABILITIES["AMX"][0])
    monkeypatch.setattr("anchorbench.train.gradients.native.available", lambda: compiled)


@pytest.mark.parametrize(("width", "expected"), [(NATIVE_WIDTH, "fp32"), (NATIVE_WIDTH + 16, "bf16")])
def test_with_amx_wide_models_train_in_bf16(monkeypatch: pytest.MonkeyPatch, width: int, expected: str) -> None:
    with_amx(monkeypatch)
    assert auto_precision(PRESETS["laptop"].override({"model.d_model": width})) == expected


def test_what_needs_autograd_trains_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    with_amx(monkeypatch, compiled=False)
    assert auto_precision(PRESETS["laptop"]) == "bf16"
    assert auto_precision(PRESETS["laptop"].override({"noise": {"kind": "dropout"}})) == "fp32"


@pytest.mark.parametrize("precision", ["fp16", "BF16", "", "bf16,fp32"])
def test_an_unknown_precision_is_one_sentence(cli: Cli, tmp_path: Path, precision: str) -> None:
    refused = cli(*RUN, "--precision", precision, "--out", tmp_path / "out")
    assert refused.code == 2
    require_one_sentence(refused.err)
    assert f"precision is {precision!r}; allowed: auto, fp32, bf16" in refused.err
    assert not (tmp_path / "out").exists()
