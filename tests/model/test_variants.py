"""The variants of the GPT: what each changes, against models that are written another way."""

import copy
import math

import pytest
import torch
from conftest import patterns_of
from every_part import WAYS, members
from torch import Tensor

from anchorbench.inspect.open_model import Site, StackModel
from anchorbench.model.gpt import GPT, ModelConfig
from anchorbench.parts import models
from anchorbench.train.seams import Layout
from anchorbench.train.stack import Stack

pytestmark = pytest.mark.usefixtures("small_evaluations")


def test_a_model_variant_is_another_model() -> None:
    """RMSNorm by PyTorch's own, in a GPT that is otherwise the same."""
    recipe = members(WAYS["model"]["rms-norm"], 1)[0]
    stack = Stack([recipe])
    block = stack.model.layers[0]
    x = torch.randn(len(stack.recipes), 5, 32)
    expected = torch.nn.functional.rms_norm(x, (32,), eps=1e-5)
    torch.testing.assert_close(block.norm_1(x), expected)
    assert {name for name, role in stack.model.roles().items() if role.part == "norm"} == {
        name for name, _ in stack.model.named_parameters() if "norm" in name
    }
    assert stack.machines[0][1].gradient == "autograd"
    assert isinstance(stack.model, models["rms-norm"])


def test_layers_that_share_are_one_block() -> None:
    """It is a GPT whose layers have equal weights; its gradient is the sum over the layers."""
    fields = WAYS["model"]["layer-sharing"]
    stack, plain = Stack(members(fields, 2)), Stack(members({"model.n_layer": 3}, 2))
    assert [layer is stack.model.layers[0] for layer in stack.model.layers] == [True, True, False]
    for layer, block in enumerate(stack.model.layers):
        plain.model.layers[layer].load_state_dict(block.state_dict())
    for name in ("token_embedding", "position_embedding", "unembedding.weight"):
        plain.model.get_parameter(name).data.copy_(stack.model.get_parameter(name))
    tokens = stack._batches.batch(1)[0]
    assert torch.equal(stack.model(tokens), plain.model(tokens))
    (_, gradient), (_, separate) = stack.oracle(1), plain.oracle(1)
    ours, theirs = stack.named(1, gradient), plain.named(1, separate)
    shared = theirs["blocks.0.ff_in.weight"] + theirs["blocks.1.ff_in.weight"]
    torch.testing.assert_close(ours["blocks.0.ff_in.weight"], shared, rtol=1e-4, atol=1e-6)
    assert sum("ff_in.weight" in name for name in ours) == 2
    every = members(fields | {"model.share": "all"}, 1)[0]
    alike = members({"model.n_layer": 1}, 1)[0]
    assert Layout.of(Stack([every]).model).sizes == Layout.of(Stack([alike]).model).sizes, "the control of equal parameters"
    assert every.macs_per_step() == members({"model.n_layer": 3}, 1)[0].macs_per_step()


def test_border_tokens_stand_around_the_tokens() -> None:
    """It is a GPT of a longer sequence and a larger vocabulary, whose additional words are the border."""
    stack = Stack(members(WAYS["model"]["border-tokens"], 2))
    model, tokens = stack.model, stack._batches.batch(1)[0]
    vocab, seq = model.vocab_size, model.seq_len
    shape = ModelConfig.model_validate(members({}, 1)[0].model)
    longer = GPT(shape, members=2, vocab_size=vocab + 3, seq_len=seq + 3)
    longer.blocks.load_state_dict(model.blocks.state_dict())
    longer.token_embedding.data = torch.cat([model.token_embedding, model.border], 1)
    zeros = torch.zeros_like(model.border)
    longer.position_embedding.data = torch.cat([zeros[:, :2], model.position_embedding, zeros[:, :1]], 1)
    longer.unembedding.weight.data = torch.nn.functional.pad(model.unembedding.weight, (0, 3))
    words = torch.nn.functional.pad(tokens, (2, 1))
    words[..., :2], words[..., -1] = torch.tensor([vocab, vocab + 1]), vocab + 2
    torch.testing.assert_close(model(tokens), longer(words)[..., :vocab])
    for pattern, larger in zip(patterns_of(model, tokens), patterns_of(longer, words), strict=True):
        torch.testing.assert_close(pattern, larger[..., 2:-1, 2:-1])
    opened = StackModel(model).run(tokens)
    torch.testing.assert_close(opened.logits, model(tokens))
    assert {x.shape[2] for x in (*opened.resid_mid, *opened.resid_post)} == {seq}
    edited = StackModel(model).run(tokens, {Site(0, "resid_post"): lambda x: x + 1})
    assert edited.resid_post[0].shape == opened.resid_post[0].shape
    assert not torch.equal(edited.logits, opened.logits)
    assert model.forward_macs(model.shape, vocab, seq) == GPT.forward_macs(shape, vocab, seq + 3)
    assert model.border[0].std() > 0, "drawn as an embedding is"


def test_values_are_those_of_the_next_token() -> None:
    """The first layer's attention is that of the plain model's pattern over values that are moved by hand."""
    stack, plain = Stack(members(WAYS["model"]["shifted-values"], 2)), Stack(members({}, 2))
    for parameter, ours in zip(plain.model.parameters(), stack.model.parameters(), strict=True):
        parameter.data.copy_(ours)
    tokens = stack._batches.batch(1)[0]
    x = plain.model.embed(tokens)
    seq, block, usual = tokens.shape[2], stack.model.layers[0], plain.model.layers[0]
    moved, pattern = block._attention(x, x, seq)
    torch.testing.assert_close(pattern, usual._attention(x, x, seq)[1])
    head, d_head = usual.shape.n_head, usual.shape.d_head
    values = usual.value(x).view(*tokens.shape, head, d_head)
    after = torch.cat([values[:, :, 1:], torch.zeros_like(values[:, :, :1])], 2)
    expected = torch.einsum("mbhqk,mbkhd->mbqhd", pattern, after).reshape(moved.shape)
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-6)
    assert type(stack.model.layers[1].value) is type(usual.value), "the other layers are as usual"


class TestScaleInvariant:
    """2202.00980: logits do not see the encoder's scale, and the gradient is orthogonal to it."""

    @staticmethod
    def model() -> tuple[GPT, torch.Tensor]:
        stack = Stack(members(WAYS["model"]["scale-invariant"], 2))
        model = copy.deepcopy(stack.model).double()
        with torch.no_grad():
            for parameter in model.parameters():  # biases of degree 1 as well
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)).double() * 0.05)
        return model, stack._batches.batch(1)[0]

    @staticmethod
    def encoder(model: GPT) -> list[Tensor]:
        return [parameter for name, parameter in model.named_parameters() if not name.startswith("unembedding")]

    def test_logits_do_not_see_the_scale(self) -> None:
        model, tokens = self.model()
        before = model(tokens)
        for factor in (7.3, 1e-6):
            for parameter in self.encoder(model):
                parameter.data *= factor
            torch.testing.assert_close(model(tokens), before, rtol=1e-9, atol=1e-9)

    def test_the_gradient_is_orthogonal_to_the_weights(self) -> None:
        model, tokens = self.model()
        weights = self.encoder(model)
        loss = model(tokens).log_softmax(-1)[..., 5].sum()
        gradients = torch.autograd.grad(loss, weights)
        product = sum(float((w.detach() * g).sum()) for w, g in zip(weights, gradients, strict=True))
        norms = [math.sqrt(sum(float(x.detach().square().sum()) for x in of)) for of in (weights, gradients)]
        assert abs(product) < 1e-12 * norms[0] * norms[1]

    def test_degrees_of_homogeneity(self) -> None:
        model, tokens = self.model()
        seen: list[list[Tensor]] = []
        for factor in (1.0, 3.0):
            for parameter in self.encoder(model):
                parameter.data *= factor
            block, x = model.layers[0], model.embed(tokens)
            normal = block.norm_1(x)
            mixed, pattern = block._attention(normal, normal, 9)
            seen.append([x, normal, block.query(normal), pattern, block.output(mixed), block.mlp(normal)])
        for degree, before, after in zip((2, 0, 1, 0, 2, 2), *seen, strict=True):
            torch.testing.assert_close(after, before * 3**degree)

    def test_a_row_without_a_positive_score_attends_to_nothing(self) -> None:
        block = self.model()[0].layers[0]
        scores = torch.tensor([[[-1.0, -math.inf], [0.0, -2.0]], [[2.0, -math.inf], [1.0, 3.0]]], requires_grad=True)
        pattern = block.pattern(scores)
        assert pattern.tolist() == [[[0, 0], [0, 0]], [[1, 0], [0.25, 0.75]]]
        (gradient,) = torch.autograd.grad(pattern[..., 1].sum(), scores)
        assert gradient.isfinite().all()
        assert gradient[0].abs().sum() == 0
