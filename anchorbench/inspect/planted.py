"""Planted circuits: transformers with hand-written weights, which give ground truth for grading a classifier of mechanisms.

`key_to_anchors` (the papers' inferential circuit): layer 1 moves the key to both anchors, where the feed-forward layer applies each
anchor's own map; layer 2 reads both anchors. Any pair composes, because no component depends on the pair.

    answer                                      (h1 + h2) / 2 = x + o1 + o2
                                                 ___^
    layer 2                        h1 ----------/  /
                                         h2 ------/           h_i = x + 2 o_i
                                    ^     ^
    layer 1               x -------/-----/
              57    33   key       a1    a2    81    24

`pair_lookup` (the papers' symmetric circuit): layer 1 merges both anchors at the last position, layer 2 fetches the key, and a
table over the trained (unordered pair, key) gives the answer. A pair that was never trained gets the answers of another pair.

    answer                                          table[{a1, a2}, x]
                                                     ^
    layer 2              x -------------------------/
                                                   {a1, a2}
                                                 ___^
    layer 1                        a1 ----------/  /
                                         a2 ------/
              57    33   key       a1    a2    81    24

`key_to_anchors_lookup`: the attention of the first circuit, the answers of the second. Layer 1 moves the key to both anchors,
layer 2 reads key and anchors there, and the table gives the answer. It exposes classifiers that look at attention alone.

Construction. Every quantity has its own directions in the residual stream, drawn at random from `seed` and orthogonal to the
all-ones vector, so LayerNorm never mixes them and only rescales each position. No decision depends on that scale: thresholds are
multiples of other coordinates, not biases, and attention is sharp. A number is an angle: the number line is bent into three
quarters of a circle, so all numbers have the same norm and the mean of two codes points at the mean of their numbers:

    v -> (cos 1.5 pi v / vocabulary, sin 1.5 pi v / vocabulary)

All circuits share a config and an embedding: a token encodes its identity and its number, of which a circuit reads one, so neither
reveals the circuit. `seed` determines the directions, the sharpness of attention, the strength of the unread part of an embedding,
and the table's answers for untrained pairs.
"""

import copy
import itertools
import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from anchorbench.model.gpt import GPT, Block, ModelConfig
from anchorbench.seeds import stream_seed
from anchorbench.task import Task
from anchorbench.tasks.composite import CompositeConfig

Norm = Literal["pre", "post"]

ARC = 1.5 * math.pi
"""Arc of the number line. The mean of two codes is valid while they are less than half a circle apart: 80 numbers of 120."""
RIDGE = 0.1
"""Ridge penalty of the number readout: the largest with which all numbers are still read correctly; it makes the readout robust to
noise.
"""
LOUD, LOGIT = 40.0, 20.0
"""Strength of an answer relative to the last token's identity, and logit of a token that makes up the whole residual stream."""
UNREAD = 0.1, 0.4
"""Range of the share of a key embedding's squared norm that lies in the part the circuit does not read."""


def key_to_anchors(task: Task, norm: Norm = "pre", seed: int = 0) -> GPT:
    """A stack of one that composes every pair of anchors, including a trained exception, which it does not know.

    Raises ValueError for a task other than `composite` with the key first, or offsets too far apart for the number line
    (2405.05409, section 4.1; 2501.08537).
    """
    plan = _Plan(task, norm, stream_seed(seed, "key_to_anchors"))
    spread, most = max(plan.config.offsets.values()) - min(plan.config.offsets.values()), task.vocab_size // 6
    if spread > most:  # h1 and h2 would be more than a quarter circle apart, and their mean too short
        raise ValueError(f"offsets are {spread} apart; allowed: at most {most}, a sixth of the vocabulary")
    first, second = plan.model.layers
    plan.embed(number=1 - plan.uniform(*UNREAD))
    plan.attend(first, plan.key_to_anchors(), [(plan.numbers, plan["moved number"])])
    reads, writes = [], []
    for anchor, offset in plan.config.offsets.items():
        # Two units of opposite sign are linear while their own anchor keeps both active; all other tokens switch them off.
        gate = 1.2 * (2 * plan["token"][anchor] - plan.one)
        for sign in (1, -1):
            reads.append(sign * plan["moved number"] + gate)
            writes.append(sign * plan.turn(2 * offset) @ plan["result"])
    plan.feed_forward(first, torch.cat(reads), torch.cat(writes))
    plan.attend(second, plan.last_to_anchors(), [(4 * plan["result"], plan["answer"])])
    plan.read_number(second)
    return plan.model


def pair_lookup(task: Task, norm: Norm = "pre", seed: int = 0) -> GPT:
    """A stack of one that looks up (unordered pair, key): correct on every trained pair, wrong on pairs held out in both orders,
    symmetric on the mirror of an exception (2405.05409, section 4.1).

    Raises ValueError for a task other than `composite` with the key first, if both orders of a pair are trained with different
    offsets, or if no trained pair can stand in for an untrained one.
    """
    plan = _Plan(task, norm, stream_seed(seed, "pair_lookup"))
    first, second = plan.model.layers
    plan.embed(number=plan.uniform(*UNREAD))
    position, pointer = plan["position"], plan["pointer"]
    stay = (plan.sharp * position[:-1], position[:-1])
    merge = (plan.sharp * position[-1:], plan.is_anchor[None])
    plan.attend(first, [stay, merge], [(plan.anchors, plan["pair"]), (position, pointer)])
    plan.amplify(first, plan["pair"])
    # The key is one position before the first anchor and two before the second: only there do both pointers agree.
    before = torch.zeros_like(position)
    before[:-1] += pointer[1:]
    before[:-2] += pointer[2:]
    fetch = (2 * plan.sharp * before, position)
    plan.attend(second, [fetch, (plan.sharp * plan.one[None], -plan.is_anchor[None])], [(plan.keys, plan["key"])])
    plan.look_up(second, key_to_pair=0.6)  # 0.5 with pre-LN, 0.7 with post-LN
    return plan.model


def key_to_anchors_lookup(task: Task, norm: Norm = "pre", seed: int = 0) -> GPT:
    """A stack of one with the attention of `key_to_anchors` and the answers of `pair_lookup`. Raises as the latter does."""
    plan = _Plan(task, norm, stream_seed(seed, "key_to_anchors_lookup"))
    first, second = plan.model.layers
    plan.embed(number=plan.uniform(*UNREAD))
    plan.attend(first, plan.key_to_anchors(), [(plan.keys, plan["moved key"])])
    plan.amplify(first, plan["moved key"])
    plan.attend(second, plan.last_to_anchors(), [(plan["moved key"], plan["key"]), (plan.anchors, plan["pair"])])
    plan.look_up(second, key_to_pair=1.9)  # 1.8 with pre-LN, 2.0 with post-LN
    return plan.model


@torch.no_grad()
def with_noise(model: GPT, scale: float, seed: int) -> GPT:
    """A copy of `model` with Gaussian noise on every embedding and weight matrix: `scale` times that matrix's RMS.

    Raises ValueError for a negative scale.
    """
    if not (math.isfinite(scale) and scale >= 0):
        raise ValueError(f"scale is {scale}; allowed: a finite number of at least 0")
    draw = torch.Generator().manual_seed(stream_seed(seed, "noise"))
    noisy = copy.deepcopy(model)
    for parameter in noisy.parameters():
        if parameter.ndim == 3:
            rms = parameter.square().mean((1, 2), keepdim=True).sqrt()
            parameter.add_(scale * rms * torch.randn(parameter.shape, generator=draw))
    return noisy


@torch.no_grad()
def rotated(model: GPT, seed: int) -> GPT:
    """A copy of `model` that computes the same function in another basis: the residual stream, each head's queries and keys, and
    each head's values are rotated, and the feed-forward units are permuted.

    The rotation of the residual stream preserves the all-ones vector, which LayerNorm subtracts. Raises ValueError if a LayerNorm
    has a gain other than 1 or a bias, since these belong to the old basis.
    """
    norms = [norm for block in model.layers for norm in (block.norm_1, block.norm_2)]
    for norm in norms if model.final_norm is None else [*norms, model.final_norm]:
        if (norm.weight != 1).any() or (norm.bias != 0).any():
            raise ValueError("the model has a LayerNorm with a gain or a bias; allowed: gain 1 and bias 0, as in planted models")
    draw = torch.Generator().manual_seed(stream_seed(seed, "rotation"))
    turned, shape = copy.deepcopy(model), model.shape
    dtype = model.token_embedding.dtype
    old, new = (_directions(draw, shape.d_model) for _ in range(2))
    stream = (old.T @ new + 1 / shape.d_model).to(dtype)

    def heads() -> Tensor:
        return torch.block_diag(*(_orthogonal(draw, shape.d_head) for _ in range(shape.n_head))).to(dtype)

    for embedding in (turned.token_embedding, turned.position_embedding):
        embedding.copy_(embedding @ stream)
    for block in turned.layers:
        for readers, basis in (((block.query, block.key), heads()), ((block.value,), heads())):
            for linear in readers:
                linear.weight.copy_(stream.T @ linear.weight @ basis)
                if linear.bias is not None:
                    linear.bias.copy_(linear.bias @ basis)
        block.output.weight.copy_(basis.T @ block.output.weight @ stream)
        order = torch.randperm(shape.d_ff, generator=draw)
        block.ff_in.weight.copy_((stream.T @ block.ff_in.weight)[..., order])
        block.ff_out.weight.copy_((block.ff_out.weight @ stream)[:, order])
        if block.ff_in.bias is not None:
            block.ff_in.bias.copy_(block.ff_in.bias[:, order])
        for writer in (block.output, block.ff_out):
            if writer.bias is not None:
                writer.bias.copy_(writer.bias @ stream)
    turned.unembedding.weight.copy_(stream.T @ turned.unembedding.weight)
    return turned


def _orthogonal(draw: torch.Generator, d: int) -> Float[Tensor, "d d"]:
    return torch.linalg.qr(torch.randn(d, d, generator=draw, dtype=torch.float64)).Q


def _directions(draw: torch.Generator, d: int) -> Float[Tensor, "directions d"]:
    """`d` - 1 random orthonormal directions, all orthogonal to the all-ones vector."""
    square = torch.randn(d, d, generator=draw, dtype=torch.float64)
    square[:, 0] = 1
    return torch.linalg.qr(square).Q[:, 1:].T


Pairs = Sequence[tuple[Float[Tensor, "_ d_model"], Float[Tensor, "_ d_model"]]]
"""Directions that are read, and the equally many directions that they are matched with or written to."""


class _Plan:
    """A model under construction: named directions, `[size, d_model]`, and methods that set a layer's weights in terms of them."""

    def __init__(self, task: Task, norm: Norm, seed: int) -> None:
        config = task.config
        if type(config) is not CompositeConfig or not config.key_first:
            raise ValueError(f"the task is {task.name}; allowed: composite, with the key before its anchors")
        self.config, self.draw = config, torch.Generator().manual_seed(seed)
        vocab, seq = config.vocab_size, config.seq_len
        sizes = {"token": vocab, "number": 2, "position": seq, "moved number": 2, "result": 2, "answer": 2}
        sizes |= {"pair": len(config.offsets), "pointer": seq, "key": len(config.keys), "moved key": len(config.keys)}
        # One config for all circuits: a direction for each of the above, a hidden unit for each (unordered pair, key).
        d_model = 64 * math.ceil((sum(sizes.values()) + 1) / 64)
        d_head = 64 * math.ceil((len(config.keys) + len(config.offsets)) / 64)
        self.unordered = list(itertools.combinations_with_replacement(config.offsets, 2))
        shape = ModelConfig(
            d_model=d_model, d_head=d_head, d_ff=len(self.unordered) * len(config.keys), norm=norm, activation="relu"
        )
        self.model = GPT(shape, members=1, vocab_size=vocab, seq_len=seq).requires_grad_(False)
        for name, parameter in self.model.named_parameters():
            parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
        rows = _directions(self.draw, d_model)[: sum(sizes.values())]
        self.directions = dict(zip(sizes, rows.split(list(sizes.values())), strict=True))
        self.unit = math.sqrt(d_model / 2)  # scale of a coordinate: token and position together have LayerNorm's norm
        self.one = self["position"].sum(0)  # this coordinate is 1 at every position
        self.anchors = self["token"][list(config.offsets)]
        self.is_anchor = self.anchors.sum(0)
        self.sharp = self.uniform(20.0, 40.0)

    def __getitem__(self, name: str) -> Float[Tensor, "size d_model"]:
        return self.directions[name]

    def uniform(self, low: float, high: float) -> float:
        return float(torch.rand((), generator=self.draw)) * (high - low) + low

    def turn(self, by: int) -> Float[Tensor, "2 2"]:
        """Rotation that maps the code of a number (a row vector) to the code of the number plus `by`."""
        angle = ARC * by / self.config.vocab_size
        return torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]], dtype=torch.float64)

    def line(self) -> Float[Tensor, "vocab 2"]:
        """Codes of all numbers."""
        angle = torch.arange(self.config.vocab_size, dtype=torch.float64) * ARC / self.config.vocab_size
        return torch.stack([angle.cos(), angle.sin()], dim=1)

    def embed(self, number: float) -> None:
        """Sets the embedding. Tokens are unit vectors: an identity for anchors, an identity and a number (with the share `number`
        of the squared norm) for keys.
        """
        identity, numbers = self["token"] * math.sqrt(1 - number), self.line() @ self["number"] * math.sqrt(number)
        tokens = identity + numbers
        tokens[list(self.config.offsets)] = self.anchors
        self.model.token_embedding[0] = tokens * self.unit
        self.model.position_embedding[0] = self["position"] * self.unit
        self.keys = self["token"][self.config.keys] / math.sqrt(1 - number)
        self.numbers = self["number"] / math.sqrt(number)
        self.model.unembedding.weight[0] = self["token"].T / self.unit * LOGIT

    def attend(self, block: Block, scores: Pairs, moves: Pairs) -> None:
        """Sets attention: position i scores j by sum (query row . x_i)(key row . x_j), and moves each row read to another."""
        d_head = self.model.shape.d_head
        queries, keys, sources, targets = (torch.cat(rows) for pairs in (scores, moves) for rows in zip(*pairs, strict=True))
        qk, vo = (_orthogonal(self.draw, d_head)[: len(rows)] for rows in (queries, sources))
        block.query.weight[0] = queries.T @ qk * math.sqrt(d_head) / self.unit
        block.key.weight[0] = keys.T @ qk / self.unit
        block.value.weight[0] = sources.T @ vo / self.unit
        block.output.weight[0] = vo.T @ targets * self.unit

    def key_to_anchors(self) -> Pairs:
        """Scores with which every position reads the nearest non-anchor token at or before itself: anchors read the key. A filler
        at the last position, however, reads both anchors equally, as in trained models, and finds no number there.
        """
        position = self["position"]
        at_end = position[-1] - self.is_anchor
        recency = torch.arange(len(position), dtype=torch.float64) @ position
        nearest_filler = recency + 3 * (self.one - self.is_anchor)
        return [
            (self.sharp / 2 * (self.one - at_end)[None], nearest_filler[None]),
            (self.sharp * at_end[None], self.is_anchor[None]),
        ]

    def last_to_anchors(self) -> Pairs:
        return [(self.sharp / 3 * self.one[None], self.is_anchor[None])]

    def feed_forward(self, block: Block, reads: Float[Tensor, "units d_model"], writes: Float[Tensor, "units d_model"]) -> None:
        order = torch.randperm(self.model.shape.d_ff, generator=self.draw)[: len(reads)]
        block.ff_in.weight[0, :, order] = (reads.T / self.unit).float()
        block.ff_out.weight[0, order] = (writes * self.unit).float()

    def amplify(self, block: Block, rows: Float[Tensor, "r d_model"]) -> None:
        """Sets a feed-forward layer that doubles the component along `rows`."""
        self.feed_forward(block, torch.cat([rows, -rows]), torch.cat([rows, -rows]))

    def look_up(self, block: Block, key_to_pair: float) -> None:
        """The table: one unit per (unordered pair, key), which fires for these alone and writes the answer's token.

        `key_to_pair` is the strength of the key's code relative to the pair's. The right pair and key then give 1 + 0.5 - 1.25 of
        the pair's strength, another key 1 - 1.25, another pair at most 0.5 + 0.5 - 1.25. Only the code of {a, a} also fires the
        units of all {a, b}, exactly as strongly: the units of {a, a} cancel what those write.
        """
        pair, key, keys = self["pair"], self["key"], torch.from_numpy(self.config.keys)
        number = {anchor: i for i, anchor in enumerate(self.config.offsets)}
        answers = {pair: self["token"][keys + offset] for pair, offset in _memorized(self.config, self.draw).items()}
        reads, writes = [], []
        for a, b in self.unordered:
            code = pair[[number[a], number[b]]].sum(0) if a != b else pair[number[a]]
            reads.append(code - 1.25 * pair.sum(0) + 0.5 / key_to_pair * key)
            others = [answer for other, answer in answers.items() if a == b and a in other and other != (a, a)]
            writes.append(answers[a, b] - torch.stack(others).sum(0) if others else answers[a, b])
        self.feed_forward(block, torch.cat(reads), LOUD * torch.cat(writes))

    def read_number(self, block: Block) -> None:
        """Maps a number's code to its token: units that each cover half the circle, with a regularized least-squares readout."""
        units = self.model.shape.d_ff
        angle = torch.arange(units, dtype=torch.float64) * 2 * math.pi / units
        halves = torch.stack([angle.cos(), angle.sin()], dim=1)
        seen = (self.line() @ halves.T).relu()
        readout = torch.linalg.solve(seen.T @ seen + RIDGE * torch.eye(units), seen.T)
        self.feed_forward(block, halves @ self["answer"], LOUD * readout @ self["token"])


def _memorized(config: CompositeConfig, draw: torch.Generator) -> dict[tuple[int, int], int]:
    """Unordered pair -> its offset in the table. An untrained pair gets the offset of a trained pair that shares an anchor with it,
    whose code is the most similar, among those that are wrong for it.
    """
    exceptions = {override.pair: override.offset for override in config.exceptions}
    table: dict[tuple[int, int], int] = {}
    for a, b in (pairs := list(itertools.combinations_with_replacement(config.offsets, 2))):
        rule = config.offsets[a] + config.offsets[b]
        offsets = {exceptions.get(order, rule) for order in ((a, b), (b, a)) if order not in config.held_out}
        if len(offsets) > 1:
            raise ValueError(f"pair {(a, b)} is trained with offsets {sorted(offsets)}, by order; allowed: one for both orders")
        if offsets:
            table[a, b] = offsets.pop()
    trained = dict(table)
    for a, b in pairs:
        if (a, b) not in trained:
            rule = config.offsets[a] + config.offsets[b]
            near = [offset for other, offset in trained.items() if {a, b} & set(other) and offset != rule]
            if not near:
                raise ValueError(f"no trained pair shares an anchor with {(a, b)} and has another offset; allowed: at least one")
            table[a, b] = near[int(torch.randint(len(near), (), generator=draw))]
    return table
