"""One GPT, unstacked and slow: the reference for the stacked model, its backward pass and its trainer.

Every position is computed in every layer, query by query and head by head, over the keys up to it; there is no mask. Autograd
gives its gradients and PyTorch's own optimizer trains it.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anchorbench.model.gpt import GPT, ModelConfig

SHAPES = {
    "pre gelu": {},
    "pre relu, no bias": {"activation": "relu", "bias": False},
    "pre, 3 heads of free width": {"n_head": 3, "d_head": 5, "unembed_bias": True},
    "pre, query norm only": {"query_norm_only": True},
    "pre, query norm only, 3 layers, 2 heads": {"query_norm_only": True, "n_layer": 3, "n_head": 2, "bias": False},
    "pre, 1 layer": {"n_layer": 1},
    "pre, 1 layer, query norm only": {"n_layer": 1, "query_norm_only": True},
    "post gelu": {"norm": "post"},
    "post relu, no bias": {"norm": "post", "activation": "relu", "bias": False, "unembed_bias": True},
    "post, 3 layers, 2 heads": {"norm": "post", "n_layer": 3, "n_head": 2, "d_head": 3},
    "post, 1 layer": {"norm": "post", "n_layer": 1},
}
"""Every branch of the model, small: name -> fields of ModelConfig."""
VOCAB_SIZE, SEQ_LEN = 11, 5


def small_stack(shape_name: str, members: int, seed: int = 0) -> GPT:
    """A stack of a shape of SHAPES whose every parameter, norms and biases included, is random."""
    shape = ModelConfig(**{"n_layer": 2, "n_head": 1, "d_model": 6, "d_head": 4, "d_ff": 9} | SHAPES[shape_name])
    model = GPT(shape, members=members, vocab_size=VOCAB_SIZE, seq_len=SEQ_LEN)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 2
        parameter.data = (noise + 1 if "norm" in name and name.endswith("weight") else noise).to(parameter.dtype)
    return model


def random_tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(VOCAB_SIZE, shape, generator=torch.Generator().manual_seed(seed))


class PlainBlock(nn.Module):
    def __init__(self, shape: ModelConfig) -> None:
        super().__init__()
        self.shape = shape
        d, width = shape.d_model, shape.n_head * shape.d_head
        self.norm_1, self.norm_2 = nn.LayerNorm(d, eps=1e-5), nn.LayerNorm(d, eps=1e-5)
        self.query, self.key, self.value = (nn.Linear(d, width, bias=shape.bias) for _ in range(3))
        self.output = nn.Linear(width, d, bias=shape.bias)
        self.ff_in, self.ff_out = nn.Linear(d, shape.d_ff, bias=shape.bias), nn.Linear(shape.d_ff, d, bias=shape.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`x [batch, seq, d]` after the block, and the attention pattern `[batch, head, query, key]`."""
        if self.shape.norm == "pre":
            normed = self.norm_1(x)
            mixed, pattern = self.attend(normed, x if self.shape.query_norm_only else normed)
            x = x + mixed
            return x + self.feed_forward(self.norm_2(x)), pattern
        mixed, pattern = self.attend(x, x)
        x = self.norm_1(x + mixed)
        return self.norm_2(x + self.feed_forward(x)), pattern

    def attend(self, query_input: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        batch, seq, _ = source.shape
        pattern = source.new_zeros(batch, self.shape.n_head, seq, seq)
        mixed = []
        for head in range(self.shape.n_head):
            columns = slice(head * self.shape.d_head, (head + 1) * self.shape.d_head)
            query, key, value = (
                linear(x)[:, :, columns] for linear, x in ((self.query, query_input), (self.key, source), (self.value, source))
            )
            rows = []
            for at in range(seq):
                scores = (key[:, : at + 1] * query[:, at : at + 1]).sum(-1) / math.sqrt(self.shape.d_head)
                weights = F.softmax(scores, dim=-1)
                pattern[:, head, at, : at + 1] = weights
                rows.append((weights[:, :, None] * value[:, : at + 1]).sum(1))
            mixed.append(torch.stack(rows, 1))
        return self.output(torch.cat(mixed, -1)), pattern

    def feed_forward(self, x: Tensor) -> Tensor:
        hidden = self.ff_in(x)
        if self.shape.activation == "gelu":
            return self.ff_out(hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2)
        return self.ff_out(torch.where(hidden > 0, hidden, torch.zeros_like(hidden)))


class PlainGPT(nn.Module):
    """A single GPT; `weights` (name -> tensor without a member axis) are those of one member of a stack."""

    def __init__(self, shape: ModelConfig, weights: dict[str, Tensor]) -> None:
        super().__init__()
        vocab_size, d = weights["token_embedding"].shape
        self.token, self.position = nn.Embedding(vocab_size, d), nn.Embedding(len(weights["position_embedding"]), d)
        self.blocks = nn.ModuleList(PlainBlock(shape) for _ in range(shape.n_layer))
        self.final_norm = nn.LayerNorm(d, eps=1e-5) if shape.norm == "pre" else nn.Identity()
        self.unembedding = nn.Linear(d, vocab_size, bias=shape.unembed_bias)
        self.to(weights["token_embedding"].dtype)
        own = dict(self.named_parameters())
        assert len(own) == len(weights)
        for name, weight in weights.items():
            own[plain_name(name)].data.copy_(plain_layout(name, weight))

    def forward(self, tokens: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits at every position, `[batch, seq, vocab]`, and each layer's pattern `[batch, head, query, key]`."""
        x = self.token(tokens) + self.position(torch.arange(tokens.shape[1]))
        patterns = []
        for block in self.blocks:
            x, pattern = block(x)
            patterns.append(pattern)
        return self.unembedding(self.final_norm(x)), patterns

    def loss(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy at the last position."""
        return F.cross_entropy(self(tokens)[0][:, -1], labels)

    def stack_layout(self, name: str, *, gradient: bool = False) -> Tensor:
        """The parameter (or its gradient) that a stack calls `name`, in the stack's layout."""
        parameter = dict(self.named_parameters())[plain_name(name)]
        return plain_layout(name, parameter.grad if gradient else parameter.detach())


def plain_name(name: str) -> str:
    return {"token_embedding": "token.weight", "position_embedding": "position.weight"}.get(name, name)


def plain_layout(name: str, weight: Tensor) -> Tensor:
    """A stack's maps are `[d_in, d_out]`, those of nn.Linear `[d_out, d_in]`: turned over, both ways."""
    return weight.T if weight.ndim == 2 and not name.endswith("embedding") else weight


def plain_member(model: GPT, member: int) -> PlainGPT:
    """One member of a stack, alone."""
    return PlainGPT(model.shape, {name: weight[member].detach() for name, weight in model.named_parameters()})
