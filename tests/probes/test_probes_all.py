"""What every probe promises: models of any origin, scores with controls, a figure, one sentence for what does not fit."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FakeModel, random_gpt
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from probe_results import require_figure, require_result
from scipy import stats

from anchorbench import load_task
from anchorbench.hub.models import to_transformers
from anchorbench.inspect.open_model import Activations, OpenModel, open_model, open_one, open_runs
from anchorbench.probes import ON_REQUEST, Score, commutativity, condensation_over_training, list_probes, run_probe
from anchorbench.probes.commutativity import agreement
from anchorbench.probes.reading import read
from anchorbench.probes.score import draw_scores, jackknife_scores, mean_score, mean_scores
from anchorbench.sweeps.run_folder import Run
from anchorbench.task import Task
from anchorbench.tasks.composite import CONTROL_PAIRS
from anchorbench.verdict import EvalSet

TASK = load_task("composite")
NAMES = ["attention_flow", "fused_vector", "anchor_value", "condensation", "embedding_order", "commutativity"]
MODEL = random_gpt(n_head=2, d_model=16, d_head=8, d_ff=32)


def llama() -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=TASK.vocab_size,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def opened() -> dict[str, OpenModel]:
    models = {
        "gpt2": to_transformers(MODEL),
        "post": random_gpt(n_head=1, d_model=8, d_head=8, d_ff=16, norm="post"),
        "llama": llama(),
    }
    return {name: open_model(model) for name, model in models.items()} | {"ours": open_model(MODEL)}


def test_the_registry() -> None:
    assert list(list_probes())[: len(NAMES)] == NAMES
    with pytest.raises(ValueError, match=r"^unknown probe 'flow'; (did you mean .*)?allowed: anchor_value, attention_flow, "):
        run_probe("flow", MODEL, TASK)


@pytest.mark.parametrize("name", NAMES)
class TestEveryProbe:
    @pytest.mark.parametrize("origin", ["gpt2", "post", "llama"])
    def test_any_model(self, name: str, origin: str, opened: dict[str, OpenModel]) -> None:
        require_result(run_probe(name, opened[origin], TASK))

    def test_a_run_folder(self, name: str, run: Run) -> None:
        require_result(run_probe(name, run.path, TASK))

    def test_an_exported_model_has_the_scores_of_its_original(self, name: str, opened: dict[str, OpenModel]) -> None:
        ours, theirs = (run_probe(name, opened[origin], TASK).scores() for origin in ("ours", "gpt2"))
        assert list(ours) == list(theirs)
        for score in ours:
            np.testing.assert_allclose(ours[score][:3], theirs[score][:3], atol=2e-3, err_msg=score)

    def test_it_is_repeatable(self, name: str, opened: dict[str, OpenModel]) -> None:
        first, again = (run_probe(name, opened["post"], TASK).scores() for _ in range(2))
        assert first == again

    @pytest.mark.parametrize("variant", ["conflict", "conflict-control"])
    def test_the_other_variants(self, name: str, variant: str, opened: dict[str, OpenModel]) -> None:
        require_result(run_probe(name, opened["ours"], load_task("composite", variant)))

    def test_the_figure(self, name: str, opened: dict[str, OpenModel]) -> None:
        result = run_probe(name, opened["ours"], TASK)
        require_figure(result.size, result.draw)

    def test_a_stack_of_two_is_refused(self, name: str) -> None:
        two = random_gpt(members=2, n_head=1, d_model=8, d_head=8, d_ff=16)
        with pytest.raises(ValueError, match=r"^the stack has 2 members; allowed: 1, pick one first$"):
            run_probe(name, two, TASK)

    def test_what_is_no_model_is_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match=r"^int is not a model; allowed: "):
            run_probe(name, 3, TASK)


@pytest.mark.parametrize("name", [probe.__name__ for probe in ON_REQUEST])
class TestEveryProbeOnRequest:
    def test_it_is_run_by_name_alone(self, name: str) -> None:
        assert name not in list_probes()
        assert name in list_probes(on_request=True)

    def test_a_run_folder(self, name: str, run: Run) -> None:
        """Twice, with the same scores and a figure."""
        result, again = (run_probe(name, run.path, TASK) for _ in range(2))
        require_result(result)
        require_figure(result.size, result.draw)
        assert result.scores() == again.scores()

    @pytest.mark.parametrize("shape", [{"norm": "post", "bias": False, "unembed_bias": True, "activation": "relu"}, {"n_layer": 1}])
    def test_other_shapes_and_variants(self, name: str, shape: dict[str, Any]) -> None:
        task = load_task("composite", "conflict")
        require_result(run_probe(name, random_gpt(**{"n_head": 1, "d_model": 8, "d_head": 8, "d_ff": 16} | shape), task))

    @pytest.mark.parametrize("origin", ["gpt2", "llama"])
    def test_a_model_of_another_origin_is_refused(self, name: str, origin: str, opened: dict[str, OpenModel]) -> None:
        with pytest.raises(ValueError, match=rf"^probe {name} changes or differentiates weights, so it takes only runs of"):
            run_probe(name, opened[origin], TASK)

    def test_what_is_not_one_model_of_the_task_is_refused(self, name: str) -> None:
        two = random_gpt(members=2, n_head=1, d_model=8, d_head=8, d_ff=16)
        with pytest.raises(ValueError, match=r"^the stack has 2 members; allowed: 1, pick one first$"):
            run_probe(name, two, TASK)
        with pytest.raises(ValueError, match=r"^int is not a model; allowed: "):
            run_probe(name, 3, TASK)
        with pytest.raises(ValueError, match=r"^the model's vocabulary is 0\.\.59, but task composite also uses "):
            run_probe(name, random_gpt(vocab_size=60, n_head=1, d_model=8, d_head=8, d_ff=16), TASK)


@pytest.mark.parametrize(
    ("name", "task"), [("fused_vector", "scan"), ("anchor_value", "two-anchors"), ("fused_vector", "middle-word")]
)
def test_a_task_without_two_anchors_is_refused(name: str, task: str) -> None:
    with pytest.raises(
        ValueError, match=rf"^probe {name} needs a task whose sequences hold a key and two anchors; those of {task} do"
    ):
        run_probe(name, MODEL, load_task(task))


def test_a_run_is_asked_about_the_pairs_that_it_was_trained_on(run: Run) -> None:
    """In conflict-control the ordinary pair that is held out rotates over seeds."""
    rotated = run.model_copy(
        update={
            "recipe": run.recipe.model_copy(update={"variant": "conflict-control", "seed": 3}),
            "result": run.result.model_copy(update={"variant": "conflict-control"}),
        }
    )
    _, task = open_one(rotated, load_task("composite", "conflict-control"))
    assert CONTROL_PAIRS[3] in task.config.held_out
    _, task = open_one(rotated, TASK)  # another variant is what was asked for
    assert task is TASK


def test_batches_are_put_together() -> None:
    tokens = TASK.sample("iid", 1500, 0).tokens  # more than one batch
    [answers] = read(open_model(MODEL), tokens, lambda a: [a.logits])
    np.testing.assert_allclose(answers[0], MODEL(torch.from_numpy(tokens)[None])[0].numpy(), atol=1e-5)


def test_condensation_over_training_draws(run: Run) -> None:
    seen = condensation_over_training({10: open_runs([run, run]), 20: open_runs([run, run])})
    assert seen.measures.shape == (2, 2, 3)
    require_figure(seen.size, seen.draw)


class TestScore:
    def test_a_mean_worked_by_hand(self) -> None:
        """Mean 1.5, standard error 1.291 / 2, t of 3 degrees 3.182."""
        score = mean_score(np.array([0.0, 1, 2, 3]), 0.25)
        np.testing.assert_allclose(score, [1.5, 1.5 - 2.0542, 1.5 + 2.0542, 0.25], atol=1e-4)

    @given(st.lists(st.floats(-10, 10), min_size=2, max_size=20))
    @settings(max_examples=50)
    def test_the_jackknife_of_a_mean_is_the_t_interval(self, values: list[float]) -> None:
        x = np.array(values)
        found = jackknife_scores(lambda kept: {"mean": float(x[kept].mean())}, len(x), {"mean": 1.0})["mean"]
        np.testing.assert_allclose(found, mean_score(x, 1.0), atol=1e-9)

    def test_the_jackknife_interval_holds_the_truth_nineteen_times_of_twenty(self) -> None:
        """The interval of the log variance of 100 normal numbers, in 20 blocks."""
        rng, held = np.random.default_rng(0), 0
        for _ in range(400):
            x = rng.normal(size=100)
            found = jackknife_scores(lambda kept, x=x: {"v": float(np.log(x[kept].var(ddof=1)))}, 100, {"v": 0.0})["v"]
            held += found.low <= 0 <= found.high
        assert stats.binomtest(held, 400, 0.95).pvalue > 0.001

    def test_one_unit_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"^1 sequences or keys; allowed: at least 2"):
            mean_score(np.array([1.0]), 0.0)

    def test_what_a_task_does_not_ask_for_is_left_out(self) -> None:
        found = {"a": np.array([[1.0, 2.0]]), "b": np.array([[np.nan, 1.0]])}
        assert list(mean_scores(found, {"a": np.array([[0.5, 0.7]]), "b": np.array([[0.0, 0.0]])})) == ["a"]

    def test_an_interval_is_cut_to_what_can_be(self) -> None:
        assert Score(0.9, 0.7, 1.1, 0.0).within(0.0, 1.0) == Score(0.9, 0.7, 1.0, 0.0)

    def test_the_drawing_has_a_row_a_score_from_top_to_bottom(self) -> None:
        axes = Figure().subplots()
        draw_scores(axes, {"a": Score(0.5, 0.4, 0.6, 0.1), "b": Score(0.2, 0.1, 0.3, 0.0)})
        assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
        assert [(line.get_xdata().tolist(), line.get_ydata().tolist()) for line in axes.lines if len(line.get_xdata()) == 2] == [
            ([0.4, 0.6], [1, 1]),
            ([0.1, 0.3], [0, 0]),
        ]


def answering(answer: Callable[[np.ndarray], np.ndarray]) -> OpenModel:
    def see(tokens: torch.Tensor) -> Activations:
        return Activations(torch.nn.functional.one_hot(torch.from_numpy(answer(tokens[0].numpy())), 120).float()[None], [], [], [])

    return FakeModel(see)


class TestCommutativity:
    def test_agreement_worked_by_hand(self) -> None:
        """Three of four equal; at random half a 1 meets a quarter of 1s, half a 2 three quarters of 2s."""
        score = agreement(np.array([1, 1, 2, 2]), np.array([1, 2, 2, 2]))
        interval = stats.binomtest(3, 4).proportion_ci(0.95, "wilson")
        np.testing.assert_allclose(score, [0.75, interval.low, interval.high, 0.5])

    @given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), min_size=1, max_size=30))
    @settings(max_examples=50)
    def test_the_control_agrees_with_a_loop(self, answers: list[tuple[int, int]]) -> None:
        score = agreement(*np.array(answers).T)
        assert score.control == pytest.approx(np.mean([a == b for a, _ in answers for _, b in answers]))
        assert score.value == np.mean([a == b for a, b in answers])

    def test_composing_commutes(self) -> None:
        scores = commutativity(answering(lambda tokens: TASK.answer(tokens).foils["inferential"]), TASK).scores()
        assert scores["held_out"].value == scores["trained"].value == 1
        assert scores["held_out"].control < 0.05

    def test_naming_the_first_anchor_never_commutes(self) -> None:
        def first_anchor(tokens: np.ndarray) -> np.ndarray:
            return tokens[np.arange(len(tokens)), TASK.token_positions(tokens)["first anchor"]]

        scores = commutativity(answering(first_anchor), TASK).scores()
        assert scores["held_out"].value == scores["trained"].value == 0

    @pytest.mark.parametrize("variant", ["heldout-both", "conflict", "conflict-control"])
    def test_held_out_pairs_are_those_of_the_verdict(self, variant: str) -> None:
        task = load_task("composite", variant)

        def same(tokens: np.ndarray) -> np.ndarray:
            return (tokens * np.arange(1, 10)).sum(1) % 3  # depends on the order

        eval_set = EvalSet.of(task, 1000, 0)
        commutes = eval_set.behaviour(same(eval_set.tokens)).commutes
        assert commutes is not None
        score = commutativity(answering(same), task, n=1000, seed=0).scores()["held_out"]
        np.testing.assert_allclose(score[:3], [commutes.value, *commutes.interval])

    @pytest.mark.parametrize(
        ("task", "without"),
        [
            (load_task("composite", "conflict"), {"(3,4)", "(4,3)"}),
            (load_task("composite", held_out=[(1, 2)]), {"(1,2)", "(2,1)"}),
        ],
    )
    def test_trained_pairs_have_two_anchors_and_a_trained_mirror(self, task: Task, without: set[str]) -> None:
        asked: list[np.ndarray] = []

        def answer(tokens: np.ndarray) -> np.ndarray:
            asked.append(tokens)
            return np.zeros(len(tokens), int)

        assert commutativity(answering(answer), task, n=500).scores()["trained"].value == 1
        names = [group.name for group in task.groups]
        _, _, trained, mirrored = ({names[group] for group in task.answer(tokens).group} for tokens in asked)
        assert trained == mirrored == {f"({a},{b})" for a in range(1, 5) for b in range(1, 5) if a != b} - without

    def test_a_task_without_a_mirror_is_refused(self) -> None:
        with pytest.raises(
            ValueError, match=r"^probe commutativity needs a task whose two anchors can be swapped; those of scan cannot$"
        ):
            commutativity(MODEL, load_task("scan"))

    def test_a_task_without_such_a_pair_is_refused(self) -> None:
        with pytest.raises(
            ValueError, match=r"^probe commutativity needs a task with a pair of two different anchors and its mirror"
        ):
            commutativity(MODEL, load_task("data-complexity", "wrong-6"))

    def test_n_below_one_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"^n is 0; allowed: at least 1$"):
            commutativity(MODEL, TASK, n=0)
