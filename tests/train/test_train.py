"""The trainer against a plain loop with PyTorch's optimizer, and each member of a stack against itself alone."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracle import PlainGPT
from scipy.stats import chisquare
from torch import Tensor
from trainings import DIVERGING, MIXED, TINY, advanced, quickly, same_bits

from anchorbench.model.gpt import GPT
from anchorbench.model.initialize import initialize
from anchorbench.presets import PRESETS
from anchorbench.recipe import Recipe
from anchorbench.train.batches import Batches
from anchorbench.train.checkpoint import resume, save
from anchorbench.train.evaluation import Point, evaluation_steps
from anchorbench.train.execution import Execution
from anchorbench.train.loop import train
from anchorbench.train.optimizers.adamw import AdamW
from anchorbench.train.rates import decay_amounts, learning_rate
from anchorbench.train.stack import Member, Stack, structure


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    with quickly():
        yield


@pytest.fixture
def double() -> Iterator[None]:
    """Everything in float64, so that two orders of summation agree to many digits."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# Schedules, worked by hand


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        # up from .2 in four steps; then from 1 to .1: left are (1 + cos(pi/4))/2 = .853553, 1/2, .146447, 0 of the .9 between
        ("cosine", {1: 0.4, 2: 0.6, 3: 0.8, 4: 1.0, 6: 0.8681981, 8: 0.55, 10: 0.2318019, 12: 0.1}),
        ("linear", {1: 0.4, 2: 0.6, 3: 0.8, 4: 1.0, 5: 0.8875, 6: 0.775, 8: 0.55, 12: 0.1}),
        ("constant", {1: 0.4, 2: 0.6, 3: 0.8, 4: 1.0, 5: 1.0, 12: 1.0}),
    ],
)
def test_learning_rate(schedule: Any, expected: dict[int, float]) -> None:
    optimizer = AdamW.Config(lr=3.0, warmup=4, start=0.2, end=0.1, schedule=schedule)
    rates = {step: learning_rate(optimizer, step, 12) / 3 for step in expected}
    assert rates == pytest.approx(expected, abs=1e-7)


def test_learning_rate_at_the_edges() -> None:
    without = AdamW.Config(lr=1.0, warmup=0, start=0.0, end=0.0)
    assert [learning_rate(without, step, 2) for step in (1, 2)] == pytest.approx([0.5, 0.0], abs=1e-15)
    throughout = AdamW.Config(lr=1.0, warmup=5, start=0.0, end=0.0)
    assert [learning_rate(throughout, step, 5) for step in range(1, 6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


@pytest.mark.parametrize(
    ("start", "until", "active"),
    [(0, None, {1, 2, 3, 4, 5, 6}), (2, None, {3, 4, 5, 6}), (2, 4, {3, 4}), (0, 0, set()), (3, 3, set())],
)
def test_weight_decay_acts_in_its_window(start: int, until: int | None, active: set[int]) -> None:
    optimizer = AdamW.Config(weight_decay=0.3, decay="unscaled", decay_from=start, decay_until=until)
    assert {step: decay_amounts(optimizer, step, 0.5) for step in range(1, 7)} == {
        step: (0.0, 0.3 * (step in active)) for step in range(1, 7)
    }


def test_evaluation_steps_are_evenly_spaced_in_their_logarithm() -> None:
    steps = sorted(evaluation_steps(TINY.override({"steps": 2000})))
    assert (steps[0], steps[-1], len(steps)) == (50, 2000, 12)
    # eleven equal ratios from 50 to 2000
    assert np.diff(np.log(steps)) == pytest.approx([math.log(40) / 11] * 11, abs=0.02)
    assert evaluation_steps(TINY.override({"steps": 50})) == {50}
    assert evaluation_steps(TINY.override({"steps": 1, "optimizer.warmup": 0})) == {1}
    often = evaluation_steps(TINY.override({"steps": 2000, "stop": "settled"}))
    assert often == set(steps) | set(range(100, 2001, 100))


# The plain loop


def initial_weights(recipe: Recipe) -> dict[str, Tensor]:
    task = recipe.load_task()
    model = GPT(recipe.model, members=1, vocab_size=task.vocab_size, seq_len=task.seq_len)
    initialize(model, [recipe.init], [recipe.seed])
    return {name: parameter[0].detach() for name, parameter in model.named_parameters()}


def plainly_trained(recipe: Recipe) -> PlainGPT:
    """One model, autograd, PyTorch's AdamW (Adam for L2) and clipping, on the member's batches."""
    model, o = PlainGPT(recipe.model, initial_weights(recipe)), recipe.optimizer
    embeddings = {*model.token.parameters(), *model.position.parameters(), *model.unembedding.parameters()}
    decayed = [parameter for parameter in model.parameters() if o.decay_embeddings or parameter not in embeddings]
    spared = [parameter for parameter in model.parameters() if not o.decay_embeddings and parameter in embeddings]
    groups = [{"params": parameters} for parameters in (decayed, spared) if parameters]
    kind = torch.optim.Adam if o.decay.kind == "coupled" else torch.optim.AdamW
    adam = kind(groups, betas=(o.beta1, o.beta2), eps=o.eps, weight_decay=0.0)
    data = Batches([recipe], [recipe.load_task()], torch.device("cpu"), 10)
    for step in range(1, recipe.steps + 1):
        tokens, labels = data.batch(step)
        adam.zero_grad()
        model.loss(tokens[0], labels[0]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), o.clip.most)
        inside = step > o.decay_from and (o.decay_until is None or step <= o.decay_until)
        for group in adam.param_groups:
            group["lr"] = learning_rate(o, step, recipe.steps)
        strength = o.weight_decay if inside else 0.0
        if o.decay.kind == "unscaled":
            with torch.no_grad():
                for parameter in decayed:
                    parameter.sub_(strength * parameter)
        else:
            adam.param_groups[0]["weight_decay"] = strength
        adam.step()
    return model


def worst_difference(member: Member, plain: PlainGPT, skip: str = "nothing") -> float:
    return max(
        (weight - plain.stack_layout(name)).abs().max().item() for name, weight in member.weights.items() if not name.endswith(skip)
    )


KINDS: dict[str, dict[str, Any]] = {
    "pre": {},
    "post": {"model.norm": "post", "model.activation": "relu", "model.bias": False, "model.unembed_bias": True},
    "3 layers, tight clip, betas": {
        "model.n_layer": 3,
        "optimizer.clip": 0.05,
        "optimizer.beta1": 0.7,
        "optimizer.beta2": 0.9,
        "optimizer.eps": 1e-4,
    },
    "coupled": {"optimizer.decay": "coupled", "optimizer.weight_decay": 0.01, "optimizer.eps": 1e-4},
    "unscaled in a window, embeddings spared": {
        "optimizer.decay": "unscaled",
        "optimizer.weight_decay": 0.01,
        "optimizer.decay_from": 12,
        "optimizer.decay_until": 20,
        "optimizer.decay_embeddings": False,
    },
    "constant": {"optimizer.schedule": "constant", "optimizer.warmup": 0},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_steps_are_those_of_the_plain_loop(kind: str, double: None) -> None:
    """In float64. The member is one of two, so that the stack's bookkeeping is in play."""
    recipe = TINY.override({**KINDS[kind], "seed": 3, "init.gamma": 0.4, "steps": 25})
    neighbour = recipe.override({"seed": 4, "init.gamma": 0.8, "optimizer.lr": 1e-3, "optimizer.decay": "scaled"})
    _, member = train([neighbour, recipe])
    plain = plainly_trained(recipe)
    # A bias on keys shifts all scores of a query alike: its gradient is zero but for some 1e-17, which Adam divides by eps.
    assert worst_difference(member, plain) < 1e-9
    assert worst_difference(member, plain, skip="key.bias") < 1e-12
    moved = max((weight - member.weights[name]).abs().max().item() for name, weight in initial_weights(recipe).items())
    assert moved > 0.05


@pytest.mark.parametrize("kind", ["pre", "post"])
def test_the_steps_in_float32(kind: str) -> None:
    recipe = TINY.override({**KINDS[kind], "optimizer.eps": 1e-5})
    [member] = train([recipe])
    # The gradient of a bias on keys is zero but for rounding, and Adam takes steps along the rounding.
    assert worst_difference(member, plainly_trained(recipe), skip="key.bias") < 1e-5


# A member and its stack


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_member_ends_as_it_would_alone(norm: str) -> None:
    """Bit for bit, beside members with other numbers and one that is no longer finite."""
    base = TINY.override({"model.norm": norm, "steps": 51})  # evaluations at 50 and 51
    fields = [*MIXED[:2], DIVERGING, *MIXED[2:]]
    stack = train([base.override(each) for each in fields])
    for member, each in zip(stack, fields, strict=True):
        if each is DIVERGING:
            assert member.diverged_at == 50
            assert member.trajectory[-1].loss is None
            assert not all(weight.isfinite().all() for weight in member.weights.values())
            assert member.behaviour.verdict == "underfit"
        else:
            [alone] = train([base.override(each)])
            assert same_bits(member.weights, alone.weights), each
            assert member.trajectory == alone.trajectory
            assert member.behaviour == alone.behaviour
            assert member.diverged_at is None
            assert all(point.loss is not None for point in member.trajectory)


def test_a_member_ends_as_it_would_alone_at_the_presets_size() -> None:
    """Other sizes run other kernels; three steps of them."""
    base = PRESETS["laptop"].override({"steps": 3, "optimizer.warmup": 1, "data_size": 300})
    recipes = [base.override({"seed": seed, "init.gamma": 0.4 + seed / 20}) for seed in range(8)]
    stacks = [train(recipes), train(recipes[:3]), train(recipes[2:3])]
    for stack in stacks[1:]:
        for member in stack:
            assert same_bits(member.weights, stacks[0][member.recipe.seed].weights)


def test_the_same_recipe_gives_the_same_bits_and_another_seed_does_not() -> None:
    first, second, other = train([TINY, TINY.override({"optimizer.lr": 2e-2}), TINY.override({"seed": 1})])
    [again] = train([TINY])
    assert same_bits(first.weights, again.weights)
    assert first.trajectory == again.trajectory
    same = {name for name in first.weights if torch.equal(first.weights[name], other.weights[name])}
    assert same <= {"blocks.1.key.bias"}  # the compiled step knows that it shifts all scores alike
    assert not same_bits(first.weights, second.weights)


def test_divergence_is_marked_where_it_is_first_seen() -> None:
    """The weights overflow after step 60; evaluations are at 50, 57, 64 and on."""
    recipe = TINY.override(
        {"steps": 200, "optimizer.lr": 100.0, "optimizer.weight_decay": 1000.0, "optimizer.decay_from": 57, "optimizer.clip": 1e-3}
    )
    [member] = train([recipe])
    assert member.diverged_at == 64
    assert [point.loss is None for point in member.trajectory] == [point.step >= 64 for point in member.trajectory]


def test_the_trajectory_has_a_point_an_evaluation() -> None:
    steps: list[int] = []
    recipe = TINY.override({"steps": 120, "variant": "conflict-control"})
    [member] = train([recipe], progress=steps.append)
    assert steps == list(range(1, 121))
    assert [point.step for point in member.trajectory] == sorted(evaluation_steps(recipe))
    assert member.steps_trained == 120
    assert member.seconds > 0
    for point in member.trajectory:
        assert point.groups.keys() <= {group.name for group in member.task.groups}
        assert point.groups["(4,3)"] <= 1
        assert point.symmetric is not None
    losses = [point.loss for point in member.trajectory]
    assert losses[0] is not None
    assert losses[-1] is not None
    assert losses[-1] < losses[0] < math.log(member.task.vocab_size) + 0.5


def test_an_easy_task_is_learned() -> None:
    """Four keys, their own answers: the trainer's numbers are of a model that really learned."""
    config = {"anchor": None, "start": 1, "seq_len": 2, "key_min": 20, "key_max": 23, "vocab_size": 24, "modulus": 2}
    recipe = TINY.override({"task": "identity", "variant": "anchorless", "task_config": config, "steps": 150})
    [member] = train([recipe])
    assert member.behaviour.accuracy_train.value == 1.0
    assert member.trajectory[-1].accuracy_train == 1.0
    loss = member.trajectory[-1].loss
    assert loss is not None
    assert loss < 0.1


@pytest.mark.parametrize(
    "fields",
    [
        {"steps": 51},
        {"batch": 8},
        {"model.norm": "post"},
        {"stop": "settled"},
        {"task_config": {"vocab_size": 121}},
        {"task_config": {"seq_len": 10}},
        {"data_size": 149},
        {"task": "identity"},
    ],
)
def test_a_stack_has_one_structure(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^a stack holds recipes of one structure; these have 2$"):
        train([TINY, TINY.override(fields)])


def test_numbers_are_no_structure() -> None:
    assert {structure(TINY.override(fields)) for fields in [*MIXED, DIVERGING]} == {structure(TINY)}


# Batches


def test_batches_are_the_tasks_training_examples() -> None:
    recipes = [TINY.override({"seed": seed, "optimizer.lr": lr}) for seed, lr in ((0, 1e-3), (1, 1e-3), (0, 1e-2))]
    tasks = [recipe.load_task() for recipe in recipes]
    data = Batches(recipes, tasks, torch.device("cpu"), 10)
    known = []
    for seed in (0, 1):
        examples = tasks[0].sample("train", TINY.data_size, seed)
        known.append({(*row, label) for row, label in zip(examples.tokens.tolist(), examples.label.tolist(), strict=True)})
    for step in (1, 2, 64, 65, 200):
        tokens, labels = data.batch(step)
        assert (tokens.shape, labels.shape) == ((3, 16, 9), (3, 16))
        assert torch.equal(tokens[0], tokens[2])
        assert torch.equal(labels[0], labels[2])
        for member, seed in ((0, 0), (1, 1)):
            rows = zip(tokens[member].tolist(), labels[member].tolist(), strict=True)
            assert {(*row, label) for row, label in rows} <= known[seed]


def test_a_batch_depends_on_its_step_only() -> None:
    def data() -> Batches:
        return Batches([TINY], [TINY.load_task()], torch.device("cpu"), 10)

    in_order, at_random = data(), data()
    batches = {step: in_order.batch(step)[0] for step in range(1, 140)}
    for step in (130, 3, 64, 63, 139, 1):
        assert torch.equal(at_random.batch(step)[0], batches[step])
    assert len({batch.numpy().tobytes() for batch in batches.values()}) == 139


def test_examples_are_drawn_equally_often() -> None:
    recipe = TINY.override({"data_size": 40, "batch": 100})
    data = Batches([recipe], [recipe.load_task()], torch.device("cpu"), 10)
    rows = torch.cat([data.batch(step)[0][0] for step in range(1, 101)]).numpy()
    _, counts = np.unique(rows, axis=0, return_counts=True)
    assert len(counts) == 40
    assert chisquare(counts).pvalue > 1e-6


# Early stop


def settled_stack(points: Sequence[tuple[str | None, float | None]], stop: str = "settled") -> bool:
    """Whether a member with these verdicts and losses is settled."""
    stack = Stack([TINY.override({"stop": stop})])
    point = Point(1, 0.0, None, 1.0, 1.0, 1.0, None, {})
    stack.trajectories[0] = [replace(point, verdict=verdict, loss=loss) for verdict, loss in points]
    return stack.settled(0)


@pytest.mark.parametrize("verdict", ["inferential", "memorizing", "symmetric"])
def test_three_calm_evaluations_of_one_verdict_settle(verdict: str) -> None:
    assert settled_stack([("mixed", 1.0), *[(verdict, 0.009)] * 3])
    assert not settled_stack([(verdict, 0.009)] * 2)
    assert not settled_stack([(verdict, 0.009)] * 3, stop="end")
    assert not settled_stack([(verdict, 0.011), *[(verdict, 0.009)] * 2])
    assert not settled_stack([(verdict, 0.009), (verdict, None), (verdict, 0.009)])
    assert not settled_stack([("mixed", 0.009), *[(verdict, 0.009)] * 2])


@pytest.mark.parametrize("verdict", ["mixed", "underfit", "other", None])
def test_no_other_verdict_settles(verdict: str | None) -> None:
    assert not settled_stack([(verdict, 0.009)] * 3)


@pytest.fixture(scope="module")
def three() -> list[Member]:
    """Three seeds, trained to the end."""
    return train(
        [TINY.override({"steps": 60, "stop": "settled", "seed": seed}) for seed in range(3)], how=Execution(keep_steps=[57])
    )


@pytest.mark.parametrize("early", [{0, 2}, {0, 1, 2}])
def test_members_that_end_early_leave_the_others_alone(
    early: set[int], three: list[Member], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The members named `early` settle at step 57, an evaluation."""
    recipes = [member.recipe for member in three]
    assert 57 in evaluation_steps(recipes[0])
    monkeypatch.setattr(Stack, "settled", lambda self, member: self.step == 57 and self.recipes[member].seed in early)
    ended = train(recipes, how=Execution(keep_steps=[57]))
    for seed, (member, to_the_end) in enumerate(zip(ended, three, strict=True)):
        assert member.recipe == recipes[seed]
        assert member.steps_trained == (57 if seed in early else 60)
        assert same_bits(member.weights, to_the_end.kept[57] if seed in early else to_the_end.weights)
        assert same_bits(member.kept[57], to_the_end.kept[57])
        assert member.trajectory == [point for point in to_the_end.trajectory if point.step <= member.steps_trained]


# Checkpoints


@pytest.fixture
def recipes() -> list[Recipe]:
    return [TINY, TINY.override({"seed": 1, "init.gamma": 0.7, "optimizer.decay": "coupled"})]


def test_a_resumed_run_ends_with_the_same_bits(recipes: list[Recipe], tmp_path: Path) -> None:
    stack = advanced(Stack(recipes), 20)
    stack.keep()
    save(stack, tmp_path / "checkpoint")
    resumed = resume(recipes, tmp_path / "checkpoint")
    assert resumed.step == 20
    for one, other in zip(advanced(stack, 30).members(), advanced(resumed, 30).members(), strict=True):
        assert same_bits(one.weights, other.weights)
        assert same_bits(one.kept[20], other.kept[20])
        assert one.trajectory == other.trajectory
    for trained, other in zip(train(recipes, checkpoint=tmp_path / "checkpoint"), train(recipes), strict=True):
        assert same_bits(trained.weights, other.weights)
        assert [point.step for point in trained.trajectory] == [20, 50]


def test_a_truncated_checkpoint_is_refused_and_training_starts_over(recipes: list[Recipe], tmp_path: Path) -> None:
    """All other damage: sweeps/test_resume.py."""
    path = tmp_path / "checkpoint"
    save(advanced(Stack(recipes), 3), path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"^checkpoint [^\n]*checkpoint is damaged$"):
        resume(recipes, path)
    for member, fresh in zip(train(recipes, checkpoint=path), train(recipes), strict=True):
        assert same_bits(member.weights, fresh.weights)
        assert [point.step for point in member.trajectory] == [50]


def test_another_stacks_checkpoint_is_refused(recipes: list[Recipe], tmp_path: Path) -> None:
    save(advanced(Stack(recipes), 1), tmp_path / "checkpoint")
    for others in (recipes[::-1], recipes[:1], [recipes[0], recipes[1].override({"optimizer.lr": 1e-4})]):
        with pytest.raises(ValueError, match=r"^checkpoint [^\n]* belongs to another stack$"):
            resume(others, tmp_path / "checkpoint")
