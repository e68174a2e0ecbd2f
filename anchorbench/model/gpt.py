"""One GPT, stacked: every parameter has a leading member axis `[members, ...]`, and one model is a stack of one.

Choices: learned positions, causal attention, untied unembedding; pre- or post-LN, ReLU or exact GELU, biases or none, free head
width. Only the last position is answered, so the last layer computes only what that position needs. Members never mix: each
operation is batched over the member axis.
"""

import math
from typing import Literal, cast

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from anchorbench.files import Plain

EPSILON = 1e-5
"""Of LayerNorm."""


class Shape(Plain):
    """The structure of a model; vocabulary and length come from the task."""

    n_layer: int = Field(default=2, ge=1, le=200)
    n_head: int = Field(default=1, ge=1, le=1024)
    d_model: int = Field(default=64, ge=1, le=65_536)
    d_head: int = Field(default=64, ge=1, le=65_536)
    d_ff: int = Field(default=256, ge=1, le=1_048_576)
    norm: Literal["pre", "post"] = "pre"
    """Where LayerNorm sits: before each sublayer, with one more at the end (GPT-2), or after each residual sum."""
    activation: Literal["gelu", "relu"] = "gelu"
    bias: bool = True
    """Whether attention and feed-forward maps have biases (LayerNorm always has)."""
    unembed_bias: bool = False
    query_norm_only: bool = False
    """A quirk of the authors' pre-LN code: keys and values read the residual stream without the LayerNorm."""

    @model_validator(mode="after")
    def _quirk_has_a_norm(self) -> "Shape":
        if self.query_norm_only and self.norm == "post":
            raise ValueError("query_norm_only is a quirk of pre-LN blocks; with norm 'post' there is no LayerNorm before attention")
        return self


class LayerNorm(nn.Module):
    """LayerNorm over the last axis with a gain and a bias per member `[members, d]`."""

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
    """Causal self-attention and a feed-forward layer, each with a residual."""

    def __init__(self, members: int, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        d, width = shape.d_model, shape.n_head * shape.d_head
        self.norm_1 = LayerNorm(members, d)
        self.query = Linear(members, d, width, bias=shape.bias)
        self.key = Linear(members, d, width, bias=shape.bias)
        self.value = Linear(members, d, width, bias=shape.bias)
        self.output = Linear(members, width, d, bias=shape.bias)
        self.norm_2 = LayerNorm(members, d)
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
        x = x + self.output(mixed)
        return (x if pre else self.norm_1(x)), pattern

    def feed_forward(self, x: Float[Tensor, "members rows d"]) -> Float[Tensor, "members rows d"]:
        """The second half: the stream after the feed-forward layer."""
        pre = self.shape.norm == "pre"
        hidden = self.ff_in(self.norm_2(x) if pre else x)
        x = x + self.ff_out(F.gelu(hidden) if self.shape.activation == "gelu" else F.relu(hidden))
        return x if pre else self.norm_2(x)

    def _attention(self, attended: Tensor, source: Tensor, seq: int) -> tuple[Tensor, Tensor]:
        members, batch = source.shape[0], source.shape[1] // seq
        head, d_head = self.shape.n_head, self.shape.d_head

        def heads(x: Tensor) -> Tensor:  # [members, batch*length, head*d_head] -> [members*batch*head, length, d_head]
            return x.view(members * batch, -1, head, d_head).transpose(1, 2).reshape(members * batch * head, -1, d_head)

        query, key, value = heads(self.query(attended)), heads(self.key(source)), heads(self.value(source))
        length = query.shape[1]
        mask = torch.full((length, seq), -math.inf, device=query.device, dtype=query.dtype).triu(seq - length + 1)
        scores = torch.bmm(query, key.transpose(1, 2)) * (1 / math.sqrt(d_head)) + mask
        pattern = scores.softmax(-1)
        mixed = torch.bmm(pattern, value).view(members * batch, head, length, d_head).transpose(1, 2)
        return mixed.reshape(members, batch * length, head * d_head), pattern.view(members, batch, head, length, seq)


class GPT(nn.Module):
    """`members` GPTs of one shape. Weights are uninitialized until `initialize` fills them."""

    def __init__(self, shape: Shape, *, members: int, vocab_size: int, seq_len: int) -> None:
        super().__init__()
        self.shape, self.members, self.vocab_size, self.seq_len = shape, members, vocab_size, seq_len
        self.token_embedding = nn.Parameter(torch.empty(members, vocab_size, shape.d_model))
        self.position_embedding = nn.Parameter(torch.empty(members, seq_len, shape.d_model))
        self.blocks = nn.ModuleList(Block(members, shape) for _ in range(shape.n_layer))
        self.final_norm = LayerNorm(members, shape.d_model) if shape.norm == "pre" else None
        self.unembedding = Linear(members, shape.d_model, vocab_size, bias=shape.unembed_bias)

    @torch.no_grad()
    def load_member(self, stack: "GPT", member: int) -> "GPT":
        """Takes over the weights of one member of a stack of the same shape; this must be a stack of one. Returns itself."""
        for mine, theirs in zip(self.parameters(), stack.parameters(), strict=True):
            mine.copy_(theirs[member : member + 1])
        return self

    @property
    def layers(self) -> list[Block]:
        return cast(list[Block], list(self.blocks))

    def forward(self, tokens: Int[Tensor, "members batch seq"]) -> Float[Tensor, "members batch vocab"]:
        """Logits at the last position, `[members, batch, vocab]`, of `tokens [members, batch, seq]`."""
        return self.answer(self.embed(tokens))

    def answer(self, x: Float[Tensor, "members batch_seq d"]) -> Float[Tensor, "members batch vocab"]:
        """Logits at the last position, from embedded tokens."""
        for number, block in enumerate(self.layers, 1):
            x, _ = block(x, self.seq_len, last_only=number == len(self.blocks))
        return self.unembed(x)

    def attention(self, tokens: Int[Tensor, "members batch seq"]) -> list[Float[Tensor, "members batch head seq seq"]]:
        """The attention pattern of each layer, `[members, batch, head, query, key]`."""
        x, patterns = self.embed(tokens), []
        for block in self.layers:
            x, pattern = block(x, self.seq_len, last_only=False)
            patterns.append(pattern)
        return patterns

    def embed(self, tokens: Int[Tensor, "members batch seq"]) -> Float[Tensor, "members batch_seq d"]:
        """Token plus position embeddings."""
        members, batch, seq = tokens.shape
        first_row = torch.arange(members, device=tokens.device).view(-1, 1, 1) * self.vocab_size
        embedded = F.embedding(tokens + first_row, self.token_embedding.flatten(0, 1))
        return (embedded + self.position_embedding[:, None]).view(members, batch * seq, self.shape.d_model)

    def unembed(self, x: Float[Tensor, "members rows d"]) -> Float[Tensor, "members rows vocab"]:
        """Logits of the rows of the last block's output."""
        return self.unembedding(x if self.final_norm is None else self.final_norm(x))
