"""The inside of a model reads the same, whether the model is ours, exported, or a TransformerBridge."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from anchorbench import load_task
from anchorbench.hub.models import to_transformers
from anchorbench.inspect.open_model import OpenModel, Site, StackModel, open_model, side_by_side
from anchorbench.model.gpt import GPT, ModelConfig
from anchorbench.model.initialize import initialize
from anchorbench.model.initializers.rate import Rate

TASK = load_task("composite")
TOKENS = torch.from_numpy(TASK.sample("iid", 6, 0).tokens)


def stack(norm: str, members: int = 1, n_layer: int = 3, n_head: int = 2) -> GPT:
    shape = ModelConfig.model_validate({"norm": norm, "n_layer": n_layer, "n_head": n_head, "d_model": 16, "d_head": 8, "d_ff": 32})
    model = GPT(shape, members=members, vocab_size=TASK.vocab_size, seq_len=TASK.seq_len)
    initialize(model, [Rate.Config(gamma=0.3)] * members, list(range(members)))
    return model.requires_grad_(False)


@pytest.mark.parametrize("norm", ["pre", "post"])
class TestOneModelTwoWays:
    def test_activations_and_weights_agree(self, norm: str) -> None:
        ours, theirs = (open_model(model) for model in (stack(norm), to_transformers(stack(norm))))
        left, right = ours.run(TOKENS), theirs.run(TOKENS)
        torch.testing.assert_close(left.logits, right.logits, atol=1e-5, rtol=1e-5)
        for name in ("patterns", "resid_mid", "resid_post"):
            for layer, (a, b) in enumerate(zip(getattr(left, name), getattr(right, name), strict=True)):
                torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5, msg=f"{name} of layer {layer}")
        assert ours.weights.keys() == theirs.weights.keys()
        for name, weight in ours.weights.items():
            torch.testing.assert_close(weight, theirs.weights[name], msg=name)

    @pytest.mark.parametrize("site", [Site(0, "resid_mid"), Site(0, "resid_post"), Site(1, "resid_mid"), Site(1, "resid_post")])
    def test_edits_agree_and_reach_the_answer(self, norm: str, site: Site) -> None:
        def swap(x: torch.Tensor) -> torch.Tensor:
            return x.roll(1, dims=1)  # every sequence gets another's stream

        ours, theirs = (open_model(model) for model in (stack(norm), to_transformers(stack(norm))))
        left, right = ours.run(TOKENS, {site: swap}), theirs.run(TOKENS, {site: swap})
        torch.testing.assert_close(left.logits, right.logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(left.logits, ours.run(TOKENS).logits.roll(1, dims=1), atol=1e-5, rtol=1e-5)

    def test_members_of_a_stack_are_read_as_if_alone(self, norm: str) -> None:
        together = StackModel(stack(norm, members=3)).run(TOKENS)
        for member in range(3):
            alone = stack(norm)
            initialize(alone, [Rate.Config(gamma=0.3)], [member])
            torch.testing.assert_close(together.logits[member], open_model(alone).run(TOKENS).logits[0], atol=1e-5, rtol=1e-5)

    def test_the_logits_are_those_of_the_model(self, norm: str) -> None:
        model = stack(norm)
        torch.testing.assert_close(open_model(model).run(TOKENS).logits, model(TOKENS[None]), atol=1e-5, rtol=1e-5)


def test_models_of_two_shapes_cannot_stand_side_by_side() -> None:
    with pytest.raises(ValueError, match=r"^the models differ in shape, vocabulary or length; allowed: models of one shape$"):
        side_by_side([stack("pre"), stack("post")])


def other_architectures() -> dict[str, torch.nn.Module]:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    common = {"vocab_size": TASK.vocab_size, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    llama = LlamaConfig(**common, num_attention_heads=2, num_key_value_heads=2, attn_implementation="eager")
    neox = GPTNeoXConfig(**common, num_attention_heads=2, attn_implementation="eager")
    return {"llama": LlamaForCausalLM(llama).eval(), "neox": GPTNeoXForCausalLM(neox).eval()}


@pytest.mark.parametrize("name", ["llama", "neox"])
def test_other_architectures_are_read_as_transformers_reads_them(name: str) -> None:
    model = other_architectures()[name]
    seen = open_model(model).run(TOKENS)
    with torch.no_grad():
        said = model(TOKENS, output_hidden_states=True, output_attentions=True)
    torch.testing.assert_close(seen.logits[0], said.logits[:, -1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen.resid_post[0][0], said.hidden_states[1], atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(seen.patterns, said.attentions, strict=True):
        torch.testing.assert_close(ours[0], theirs, atol=1e-5, rtol=1e-5)
    assert model(TOKENS).logits.isfinite().all()  # the model itself is still whole


@pytest.mark.parametrize("open_one", [lambda: open_model(stack("pre")), lambda: open_model(to_transformers(stack("post")))])
def test_untrained_is_another_model_of_the_same_shape(open_one: "Callable[[], OpenModel]") -> None:
    trained = open_one()
    fresh, again, other = trained.untrained(5), trained.untrained(5), trained.untrained(6)
    assert {name: w.shape for name, w in fresh.weights.items()} == {name: w.shape for name, w in trained.weights.items()}
    torch.testing.assert_close(fresh.weights["query.0"], again.weights["query.0"], atol=0, rtol=0)
    assert not torch.equal(fresh.weights["query.0"], other.weights["query.0"])


def test_what_does_not_fit_is_one_sentence() -> None:
    opened = open_model(stack("pre"))
    with pytest.raises(ValueError, match=r"the task uses token 5000, but the model's vocabulary is 0\.\.\d+$"):
        opened.run(torch.full((1, 9), 5000))
    with pytest.raises(ValueError, match=r"the task's sequences have 8 tokens; the model takes exactly 9$"):
        opened.run(TOKENS[:, :8])
    with pytest.raises(ValueError, match=r"the task's sequences have 18 tokens; the model takes at most 9$"):
        open_model(to_transformers(stack("pre"))).run(TOKENS.repeat(1, 2))
    broken = stack("pre")
    broken.token_embedding[0, 3] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        open_model(broken).run(torch.full((1, 9), 3))
