"""A stack of GPTs: every parameter has a leading member axis `[members, ...]`, and a single model is a stack of one.

Learned positions, causal attention, untied unembedding; pre- or post-LN, ReLU or exact GELU, biases or none, any head width.
Only the last position is answered, so the last layer computes only what that position needs. Members never mix: each operation is
batched over the member axis.
"""

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, cast

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from anchorbench.model.roles import Part, Role
from anchorbench.parts import Config, models

EPSILON = 1e-5
"""Added to the variance in LayerNorm."""
MAX_D_FF = 1_048_576
Site = Literal["embedding", "attention", "residual", "mlp", "final"]
"""Where noise can act: on the embedded tokens, the attention pattern, what a sublayer adds to the residual stream, the hidden
layer of the feed-forward layer, and what the unembedding reads."""
Disturbance = Callable[[Site, Tensor], Tensor]
"""(site, activations `[members, ...]`) -> what takes their place."""


def undisturbed(site: Site, x: Tensor) -> Tensor:
    """The activations unchanged."""
    return x


class ModelConfig(Config):
    """The structure of a model; vocabulary and length come from the task."""

    kind: Literal["gpt"] = "gpt"
    n_layer: int = Field(default=2, ge=1, le=200)
    """Layers."""
    n_head: int = Field(default=1, ge=1, le=1024)
    """Attention heads per layer."""
    d_model: int = Field(default=64, ge=1, le=65_536)
    """Width of the residual stream."""
    d_head: int = Field(default=64, ge=1, le=65_536)
    """Width of a head."""
    d_ff: int = Field(default=256, ge=1, le=MAX_D_FF)
    """Width of the feed-forward layer."""
    norm: Literal["pre", "post"] = "pre"
    """Where LayerNorm sits: before each sublayer, with one more at the end (GPT-2), or after each residual sum."""
    activation: Literal["gelu", "relu"] = "gelu"
    """Activation of the feed-forward layer; GELU is exact, not the tanh approximation."""
    bias: bool = True
    """Whether attention and feed-forward maps have biases (LayerNorm always has)."""
    unembed_bias: bool = False
    """Whether the output embedding has a bias."""
    query_norm_only: bool = False
    """A quirk of the authors' pre-LN code: keys and values read the residual stream without the LayerNorm."""

    @model_validator(mode="after")
    def _quirk_has_a_norm(self) -> "ModelConfig":
        if self.query_norm_only and self.norm == "post":
            raise ValueError("query_norm_only applies to pre-LN blocks; with norm 'post' there is no LayerNorm before attention")
        return self

    @property
    def structure(self) -> tuple[Any, ...]:
        """All fields: a stack holds models with the same config."""
        return tuple(self.model_dump().values())


class LayerNorm(nn.Module):
    """LayerNorm over the last axis, with gain and bias per member `[members, d]`."""

    def __init__(self, members: int, d: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(members, d))
        self.bias = nn.Parameter(torch.zeros(members, d))

    def forward(self, x: Float[Tensor, "members rows d"]) -> Float[Tensor, "members rows d"]:
        return torch.addcmul(self.bias[:, None], F.layer_norm(x, x.shape[-1:], eps=EPSILON), self.weight[:, None])


class Linear(nn.Module):
    """An affine map per member: weight `[members, d_in, d_out]`, bias `[members, d_out]` or none."""

    def __init__(self, members: int, d_in: int, d_out: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, d_in, d_out))
        self.bias = nn.Parameter(torch.zeros(members, d_out)) if bias else None

    def forward(self, x: Float[Tensor, "members rows d_in"]) -> Float[Tensor, "members rows d_out"]:
        y = torch.bmm(x, self.weight)
        return y if self.bias is None else y + self.bias[:, None]


class Block(nn.Module):
    """Causal self-attention and a feed-forward layer, each with a residual connection. Variants override single methods."""

    make_norm: ClassVar[Callable[[int, int], Any]] = LayerNorm
    """(members, width) -> a norm."""
    parts: ClassVar[dict[str, tuple[Part, bool]]] = {
        "query": ("qk", False),
        "key": ("qk", False),
        "value": ("vo", False),
        "output": ("vo", True),
        "ff_in": ("mlp", False),
        "ff_out": ("mlp", True),
    }
    """Map -> the part that it belongs to, and whether it writes to the residual stream."""

    def __init__(self, members: int, shape: ModelConfig) -> None:
        super().__init__()
        self.shape = shape
        self.disturb: Disturbance = undisturbed
        d, width = shape.d_model, shape.n_head * shape.d_head
        self.norm_1 = type(self).make_norm(members, d)
        self.query = Linear(members, d, width, bias=shape.bias)
        self.key = Linear(members, d, width, bias=shape.bias)
        self.value = Linear(members, d, width, bias=shape.bias)
        self.output = Linear(members, width, d, bias=shape.bias)
        self.norm_2 = type(self).make_norm(members, d)
        self.ff_in = Linear(members, d, shape.d_ff, bias=shape.bias)
        self.ff_out = Linear(members, shape.d_ff, d, bias=shape.bias)

    def forward(
        self, x: Float[Tensor, "members batch_seq d"], seq: int, *, last_only: bool
    ) -> tuple[Float[Tensor, "members rows d"], Float[Tensor, "members batch head query seq"]]:
        """The residual stream after the block, `[members, batch*seq, d]` (`[members, batch, d]` for the last position
        only), and the attention pattern `[members, batch, head, query, seq]`.
        """
        x, pattern = self.attend(x, seq, last_only=last_only)
        return self.feed_forward(x), pattern

    def attend(
        self, x: Float[Tensor, "members batch_seq d"], seq: int, *, last_only: bool = False
    ) -> tuple[Float[Tensor, "members rows d"], Float[Tensor, "members batch head query seq"]]:
        """The first half: the stream after attention (with post-LN, after its LayerNorm), and the attention pattern."""
        members, rows, d = x.shape
        pre = self.shape.norm == "pre"
        attended = self.norm_1(x) if pre else x
        source = x if self.shape.query_norm_only else attended
        if last_only:
            x, attended = (t.view(members, rows // seq, seq, d)[:, :, -1] for t in (x, attended))
        mixed, pattern = self._attention(attended, source, seq)
        x = x + self.disturb("residual", self.output(mixed))
        return (x if pre else self.norm_1(x)), pattern

    def feed_forward(self, x: Float[Tensor, "members rows d"]) -> Float[Tensor, "members rows d"]:
        """The second half: the stream after the feed-forward layer."""
        pre = self.shape.norm == "pre"
        x = x + self.disturb("residual", self.mlp(self.norm_2(x) if pre else x))
        return x if pre else self.norm_2(x)

    def mlp(self, x: Float[Tensor, "members rows d"]) -> Float[Tensor, "members rows d"]:
        """The feed-forward layer alone."""
        return self.ff_out(self.disturb("mlp", self.activation(self.ff_in(x))))

    def activation(self, x: Float[Tensor, "members rows d_ff"]) -> Float[Tensor, "members rows d_ff"]:
        """The non-linearity of the feed-forward layer."""
        return F.gelu(x) if self.shape.activation == "gelu" else F.relu(x)

    def pattern(self, scores: Float[Tensor, "heads query key"]) -> Float[Tensor, "heads query key"]:
        """Attention pattern from scores, in which masked entries are -inf; `heads` runs over members, sequences and heads."""
        return scores.softmax(-1)

    def _attention(self, attended: Tensor, source: Tensor, seq: int) -> tuple[Tensor, Tensor]:
        members, batch = source.shape[0], source.shape[1] // seq
        head, d_head = self.shape.n_head, self.shape.d_head

        def heads(x: Tensor) -> Tensor:  # [members, batch*length, head*d_head] -> [members*batch*head, length, d_head]
            return x.view(members * batch, -1, head, d_head).transpose(1, 2).reshape(members * batch * head, -1, d_head)

        query, key, value = heads(self.query(attended)), heads(self.key(source)), heads(self.value(source))
        length = query.shape[1]
        mask = torch.full((length, seq), -math.inf, device=query.device, dtype=query.dtype).triu(seq - length + 1)
        scores = torch.bmm(query, key.transpose(1, 2)) * (1 / math.sqrt(d_head)) + mask
        pattern = self.pattern(scores)
        used = self.disturb("attention", pattern.view(members, -1, length, seq)).view_as(pattern)
        mixed = torch.bmm(used, value).view(members * batch, head, length, d_head).transpose(1, 2)
        return mixed.reshape(members, batch * length, head * d_head), pattern.view(members, batch, head, length, seq)


def new_model(shape: ModelConfig, *, members: int, vocab_size: int, seq_len: int) -> "GPT":
    """An uninitialized stack of the registered kind of model that `shape` configures."""
    return models[shape.kind](shape, members=members, vocab_size=vocab_size, seq_len=seq_len)


def is_gpt(shape: ModelConfig) -> bool:
    """Whether it is the plain GPT, which the hand-written backward pass and the export support, and not a variant."""
    return models[shape.kind] is GPT


@models.register
class GPT(nn.Module):
    """A GPT with learned positions and an untied unembedding; `members` with the same config, side by side.

    Weights are uninitialized until `initialize` fills them.
    """

    Config: ClassVar[type[ModelConfig]] = ModelConfig
    block: ClassVar[type[Block]] = Block
    """Class of its layers."""
    tables: ClassVar[tuple[str, ...]] = ("token_embedding", "position_embedding")
    """Parameters whose rows enter the residual stream."""

    def __init__(self, shape: ModelConfig, *, members: int, vocab_size: int, seq_len: int) -> None:
        super().__init__()
        self.shape, self.members, self.vocab_size, self.seq_len = shape, members, vocab_size, seq_len
        self.disturb: Disturbance = undisturbed
        self.length = self.positions(shape, seq_len)
        self.inside = slice(0, seq_len)
        """Positions of the residual stream that hold the tokens."""
        self.token_embedding = nn.Parameter(torch.empty(members, vocab_size, shape.d_model))
        self.position_embedding = nn.Parameter(torch.empty(members, seq_len, shape.d_model))
        self.blocks = nn.ModuleList(self.block(members, shape) for _ in range(shape.n_layer))
        self.final_norm = self.block.make_norm(members, shape.d_model) if shape.norm == "pre" else None
        self.unembedding = Linear(members, shape.d_model, vocab_size, bias=shape.unembed_bias)

    def like(self, *, members: int) -> "GPT":
        """An uninitialized stack of the same kind and config with another number of members."""
        return type(self)(self.shape, members=members, vocab_size=self.vocab_size, seq_len=self.seq_len)

    @classmethod
    def positions(cls, shape: ModelConfig, seq_len: int) -> int:
        """Positions of the residual stream for `seq_len` tokens."""
        return seq_len

    @classmethod
    def forward_macs(cls, shape: ModelConfig, vocab_size: int, seq_len: int) -> int:
        """Matmul MACs of a forward pass on one sequence; the last layer answers one position."""
        width, d = shape.n_head * shape.d_head, shape.d_model
        total = d * vocab_size
        for layer in range(shape.n_layer):
            answered = 1 if layer == shape.n_layer - 1 else seq_len
            total += 2 * seq_len * d * width + answered * (2 * d * width + 2 * d * shape.d_ff) + 2 * answered * seq_len * width
        return total

    def roles(self) -> dict[str, Role]:
        """Parameter -> what it is for, in the order of `named_parameters`."""
        found: dict[str, Role] = {}
        for name, parameter in self.named_parameters():
            _, owner, leaf = f"..{name}".rsplit(".", 2)
            if leaf in self.tables:
                found[name] = Role("embedding", "matrix", self.shape.d_model, residual=False)
            elif "norm" in owner:
                found[name] = Role("norm", "gain" if leaf == "weight" else "bias", 1, residual=False)
            else:
                part, residual = self.block.parts.get(owner, ("embedding", False))
                matrix = leaf == "weight"
                found[name] = Role(part, "matrix" if matrix else "bias", parameter.shape[1] if matrix else 1, residual)
        return found

    @torch.no_grad()
    def load_member(self, stack: "GPT", member: int) -> "GPT":
        """Copies the weights of one member of a stack with the same config into this stack of one, and returns it."""
        for mine, theirs in zip(self.parameters(), stack.parameters(), strict=True):
            mine.copy_(theirs[member : member + 1])
        return self

    @property
    def layers(self) -> list[Block]:
        """The block of each layer."""
        return cast(list[Block], list(self.blocks))

    @contextmanager
    def disturbed(self, disturb: Disturbance) -> Generator[None]:
        """Context in which `disturb` replaces the activations at all sites."""
        places = [self, *self.layers]
        for place in places:
            place.disturb = disturb
        try:
            yield
        finally:
            for place in places:
                place.disturb = undisturbed

    def forward(self, tokens: Int[Tensor, "members batch seq"]) -> Float[Tensor, "members batch vocab"]:
        """Logits at the last position, `[members, batch, vocab]`, for `tokens [members, batch, seq]`."""
        return self.answer(self.embed(tokens))

    def answer(self, x: Float[Tensor, "members batch_seq d"]) -> Float[Tensor, "members batch vocab"]:
        """Logits at the last position, from embedded tokens."""
        for number, block in enumerate(self.layers, 1):
            x, _ = block(x, self.length, last_only=number == self.shape.n_layer)
        return self.unembed(x)

    def embed(self, tokens: Int[Tensor, "members batch seq"]) -> Float[Tensor, "members batch_seq d"]:
        """Token plus position embeddings."""
        members, batch, seq = tokens.shape
        first_row = torch.arange(members, device=tokens.device).view(-1, 1, 1) * self.vocab_size
        embedded = F.embedding(tokens + first_row, self.token_embedding.flatten(0, 1))
        x = (embedded + self.position_embedding[:, None]).view(members, batch * seq, self.shape.d_model)
        return self.disturb("embedding", x)

    def unembed(self, x: Float[Tensor, "members rows d"]) -> Float[Tensor, "members rows vocab"]:
        """Logits of the rows of the last block's output."""
        return self.unembedding(self.disturb("final", x if self.final_norm is None else self.final_norm(x)))
