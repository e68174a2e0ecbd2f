"""The probe of effective width: founders and merging by hand, planted copies, and what could fool its control."""

import numpy as np
import pytest
import torch
from conftest import random_gpt
from hypothesis import given, settings
from hypothesis import strategies as st
from small_gpts import SMALL, TASK, noise, small_gpt

from anchorbench import load_task
from anchorbench.inspect.open_model import StackModel
from anchorbench.model.gpt import GPT
from anchorbench.probes import effective_width
from anchorbench.probes.effective_width import Neurons, answers, at_random, founders, merge, width
from anchorbench.probes.loss import copy_of


def neurons(into: list[list[float]], out: list[float]) -> Neurons:
    return Neurons(np.array(into, float), np.array(out, float)[:, None])


class TestEffectiveWidth:
    def test_founders_worked_by_hand(self) -> None:
        """Strengths 1, 6, 3, 5 and .001; the second takes the first, the opposite one stays, the last is faint."""
        found = founders(neurons([[1, 0], [2, 0.1], [-3, 0], [0, 5], [0, 1]], [1, 3, 1, 1, 0.001]))
        assert found.tolist() == [1, 1, 2, 3, -1]
        assert width(found) == 3 / 5

    def test_a_chain_of_small_angles_is_not_one_direction(self) -> None:
        """Neurons 15 degrees apart: the strongest, at 0, takes those within 18 degrees, and no more."""
        angle = np.radians([0, 15, 30, 45])
        found = founders(Neurons(np.stack([np.cos(angle), np.sin(angle)], 1), np.array([[9.0], [2], [3], [1]])))
        assert found.tolist() == [0, 0, 2, 2]

    def test_zero_neurons_are_left_out(self) -> None:
        assert founders(neurons([[0, 0], [0, 0]], [1, 1])).tolist() == [-1, -1]
        assert founders(neurons([[0, 0], [1, 0]], [1, 1])).tolist() == [-1, 1]

    def test_merging_worked_by_hand(self) -> None:
        """The founder has norm 2: 3 of its own, and 4 * 1 / 2 of the one that it takes."""
        layer = neurons([[2, 0], [1, 0], [0, 1]], [3, 4, 5])
        assert merge(layer, np.array([0, 0, -1])).tolist() == [[5], [0], [0]]

    @given(st.integers(0, 1000), st.integers(2, 20))
    @settings(max_examples=30)
    def test_random_groups_have_the_same_sizes(self, seed: int, count: int) -> None:
        layer = Neurons(noise(count, 2, seed=seed), noise(count, 2, seed=seed + 1))
        founder = founders(layer)
        found = at_random(founder, layer, np.random.default_rng(seed))
        assert (found < 0).tolist() == (founder < 0).tolist()
        sizes = [sorted(np.unique(each[each >= 0], return_counts=True)[1].tolist()) for each in (founder, found)]
        assert sizes[0] == sizes[1]
        for group in np.unique(found[found >= 0]):
            assert found[group] == group
            assert layer.strength[group] == layer.strength[found == group].max()

    def planted(self, activation: str, *, scaled: bool, bias: bool = True) -> GPT:
        """32 neurons in 4 directions in each layer."""
        model = random_gpt(n_head=1, d_model=8, d_head=8, d_ff=32, activation=activation, bias=bias)
        for block in model.layers:
            scale = torch.linspace(0.5, 2, 32) if scaled else torch.ones(32)
            block.ff_in.weight[0] = block.ff_in.weight[0, :, torch.arange(32) % 4] * scale
            block.ff_out.weight.mul_(5)
            if block.ff_in.bias is not None:
                block.ff_in.bias[0] = block.ff_in.bias[0, torch.arange(32) % 4] * scale
        return model

    @pytest.mark.parametrize(("activation", "scaled", "bias"), [("relu", True, True), ("relu", True, False), ("gelu", False, True)])
    def test_planted_copies_merge_without_a_change(self, activation: str, scaled: bool, bias: bool) -> None:
        task, model = load_task("composite"), self.planted(activation, scaled=scaled, bias=bias)
        scores = effective_width(model, task, n=100).scores()
        for layer in (0, 1):
            score = scores[f"width_{layer}"]
            assert score.value == 4 / 32
            assert score.low <= 4 / 32 <= score.high < 0.2 < score.control
        assert scores["same_answers"].value == 1
        assert scores["same_answers"].control < 0.6
        merged = copy_of(StackModel(model))
        tokens = torch.from_numpy(task.sample("iid", 20, 0).tokens)
        before = merged(tokens[None])
        for block in merged.layers:
            layer = Neurons.of(block)
            block.ff_out.weight[0] = torch.from_numpy(merge(layer, founders(layer)))
        torch.testing.assert_close(merged(tokens[None]), before, atol=1e-5, rtol=1e-4)

    def test_gelu_feels_other_norms(self) -> None:
        """One direction, but not one function: the widths say 4, and the answers that it is not the same model."""
        scores = effective_width(self.planted("gelu", scaled=True), load_task("composite"), n=100).scores()
        assert scores["width_0"].value == 4 / 32
        assert scores["same_answers"].control < scores["same_answers"].value < 1

    def test_a_narrow_net_embedded_in_a_wide_one(self) -> None:
        """One-step splittings of 2105.14573, with shares that may be negative; the width is that of the narrow one."""
        narrow = random_gpt(n_head=1, d_model=8, d_head=8, d_ff=8, n_layer=1)
        wide = random_gpt(n_head=1, d_model=8, d_head=8, d_ff=16, n_layer=1)
        wide.load_state_dict({
            name: tensor if tensor.shape == wide.state_dict()[name].shape else torch.zeros_like(wide.state_dict()[name])
            for name, tensor in narrow.state_dict().items()
        })  # fmt: skip
        source, target, share = narrow.layers[0], wide.layers[0], torch.tensor([0.3, -1.0, 0.5, 0.7, 2.0, 0.1, 0.9, 0.4])
        target.ff_in.weight[0] = source.ff_in.weight[0].repeat(1, 2)
        target.ff_in.bias[0] = source.ff_in.bias[0].repeat(2)
        target.ff_out.weight[0] = torch.cat([(1 - share)[:, None], share[:, None]]) * source.ff_out.weight[0].repeat(2, 1)
        scores = effective_width(wide, load_task("composite"), n=50).scores()
        assert scores["width_0"].value == effective_width(narrow, load_task("composite"), n=50).scores()["width_0"].value / 2 == 0.5
        assert scores["same_answers"].value == 1

    def test_weights_that_shuffling_cannot_change_have_the_same_control(self) -> None:
        """All input weights of a neuron equal: one direction, but because of the values of each weight alone."""
        model = self.planted("relu", scaled=True, bias=False)
        for block in model.layers:
            block.ff_in.weight[0] = block.ff_in.weight[0, :1].abs()
        scores = effective_width(model, load_task("composite"), n=20).scores()
        assert scores["width_0"].value == scores["width_0"].control == 1 / 32

    def test_layers_that_do_nothing_have_a_control_that_says_so(self) -> None:
        model = self.planted("relu", scaled=True)
        for block in model.layers:
            block.ff_out.weight.mul_(1e-6)
        scores = effective_width(model, load_task("composite"), n=100).scores()
        assert scores["same_answers"].value == scores["same_answers"].control == 1

    def test_distinct_directions_stay(self) -> None:
        scores = effective_width(random_gpt(n_head=1, d_model=32, d_head=8, d_ff=16), load_task("composite"), n=20).scores()
        assert scores["width_0"][:3] == (1, 1, 1)
        assert scores["same_answers"].value == 1

    def test_answers_are_the_most_probable(self) -> None:
        tokens = torch.from_numpy(TASK.sample("train", 5, 0).tokens)
        assert answers(SMALL, tokens).tolist() == [int(SMALL(row[None, None])[0, 0].argmax()) for row in tokens]

    def test_bad_input_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"^n is 0; allowed: at least 1$"):
            effective_width(SMALL, TASK, n=0)
        with pytest.raises(ValueError, match=r"^the model has 2 feed-forward neurons per layer; allowed: at least 3"):
            effective_width(small_gpt(d_ff=2), TASK)
