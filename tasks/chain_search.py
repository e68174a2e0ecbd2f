"""Chain search: shuffled edges and a node; which node is a few hops further along?

    chain          21 -> 36 -> 62 -> 97 -> 38 -> 54 -> 79
    tokens         36 62   38 54   21 36   97 38   54 79   62 97   36   ->   97, two hops after 36

The chain's n edges, two tokens each, are written in random order, followed by the node that is queried (2405.15302).

Variants
    single     one chain of 6 edges; the query is any node with two more hops
    order      one chain of 6 edges; the query is followed by the number of hops, 1, 2 or 3, which is the group
    two        two chains of 3 edges, mixed; the query lies exactly two hops before the end of one of them
    two-any    as two, but the query is any node with two more hops
    two-noise  as two, with an extra edge into each chain from a node outside it, which no path from the query passes

The foil `shortcut` of two and two-noise is the end of the other chain: a model can find the two ends without matching any edge.

Split: modulo 5, the difference next - current of every edge is 0, 1 or 4 in `train`, 2 or 3 in `iid`: every node is trained but no
edge of `iid` ever is, so this is unseen data rather than an unseen function. (The paper calls them train and test; a commented-out
block in its published script swaps them.) The paper's sequence length, 13, and its examples determine single and two; we chose the
hops of `order`, and that noise never enters at the start of a chain, where it would only lengthen it. Nodes are 20..99, all
distinct.
"""

import itertools
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float, Int
from pydantic import Field, model_validator

from anchorbench.task import (
    NO_ANSWER,
    SPLITS,
    Answers,
    Examples,
    Group,
    Modulus,
    Parser,
    Split,
    Task,
    TaskConfig,
    Token,
    TokenId,
    register,
)

from .sequence import read, write


class ChainSearchConfig(TaskConfig):
    """Config; defaults from the paper."""

    key_min: TokenId = 20
    key_max: TokenId = 99
    """Nodes are key_min..key_max, inclusive."""
    chains: Literal[1, 2] = 1
    edges: int = Field(6, ge=1, le=16)
    """Edges per chain."""
    hops: int = Field(2, ge=1, le=16)
    """Hops from query to answer; the largest number of hops if `ask_hops`."""
    ask_hops: bool = False
    """Whether a token after the query gives the number of hops."""
    noise: bool = False
    """Whether one extra edge leads into each chain."""
    any_node: bool = False
    """With two chains: whether the query may be any node with at least `hops` hops after it, or only the one whose answer is the
    end of its chain. With one chain it may always be any such node."""
    later: ClassVar[frozenset[str]] = frozenset({"any_node"})
    modulus: Modulus = 5
    iid_differences: tuple[TokenId, ...] = Field((2, 3), min_length=1)
    """Edge differences of `iid`, modulo `modulus`; all others belong to `train`."""
    vocab_size: int = Field(120, ge=2, le=32_768)

    @property
    def nodes(self) -> int:
        """Number of nodes in a sequence."""
        return self.chains * (self.edges + 1 + self.noise)

    @model_validator(mode="after")
    def _makes_sense(self) -> "ChainSearchConfig":
        keys = self.key_max - self.key_min + 1
        least = max(self.modulus * self.nodes, self.nodes**2 // 8)  # with fewer, sequences of distinct nodes are rare or impossible
        if keys < least or keys % self.modulus:
            raise ValueError(
                f"nodes {self.key_min}..{self.key_max} are {keys}; allowed: a multiple of {self.modulus}, at least {least}"
            )
        if self.key_max >= self.vocab_size:
            raise ValueError(f"key_max is {self.key_max}; allowed: below vocab_size, {self.vocab_size}")
        if self.hops > self.edges:
            raise ValueError(f"hops is {self.hops}; allowed: at most the chain's edges, {self.edges}")
        if self.any_node and self.chains == 1:
            raise ValueError("any_node is True; allowed: False with one chain, where the query may be any node")
        if self.ask_hops and (self.chains == 2 or self.hops >= self.key_min):
            raise ValueError(f"ask_hops needs one chain, and hops, {self.hops}, below key_min, {self.key_min}")
        iid, every = set(self.iid_differences), set(range(self.modulus))
        if not iid < every or {0} in (iid, every - iid):
            raise ValueError(
                f"iid_differences are {self.iid_differences}; allowed: some, not all, of 0..{self.modulus - 1}, "
                "and neither they nor the others are 0 alone"
            )
        return self


@register
class ChainSearch(Task):
    """The node some hops after the query, along shuffled edges (2405.15302)."""

    name = "chain-search"
    paper = "2405.15302, chain search"
    Config = ChainSearchConfig
    config: ChainSearchConfig
    description = "The node some hops after the query, in one or two chains whose edges are shuffled."
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "single": {},
        "order": {"ask_hops": True, "hops": 3},
        "two": {"chains": 2, "edges": 3},
        "two-any": {"chains": 2, "edges": 3, "any_node": True},
        "two-noise": {"chains": 2, "edges": 3, "noise": True},
    }
    sizes = {"train": 10_000, "iid": 2_000}

    @property
    def _edges(self) -> int:
        return self.config.chains * (self.config.edges + self.config.noise)

    @property
    def _asks_for_end(self) -> bool:
        """Whether the answer is the end of one of two chains."""
        return self.config.chains == 2 and not self.config.any_node

    @property
    def seq_len(self) -> int:
        return 2 * self._edges + 1 + self.config.ask_hops

    @property
    def chance(self) -> float:
        return 1 / (self.config.key_max - self.config.key_min + 1)

    @property
    def groups(self) -> tuple[Group, ...]:
        hops = range(1, self.config.hops + 1) if self.config.ask_hops else [self.config.hops]
        return tuple(Group(f"{h}-hop{'s' * (h > 1)}", "trained") for h in hops)

    @property
    def vocabulary(self) -> tuple[Token, ...]:
        config = self.config

        def meaning(id_: int) -> str:
            if config.key_min <= id_ <= config.key_max:
                return f"node {id_}"
            return f"asks for the node {id_} hops after the query" if config.ask_hops and 1 <= id_ <= config.hops else "never used"

        return tuple(Token(str(id_), meaning(id_)) for id_ in range(config.vocab_size))

    def generate(self, rng: np.random.Generator, split: Split, n: int) -> Examples:
        config, rows, each, n_edges = self.config, np.arange(n), self.config.edges + 1, self._edges
        nodes, noise_into = self._draw(rng, split, n)
        edges = [(nodes[i], nodes[i + 1]) for i in range(config.chains * each) if (i + 1) % each]
        if config.noise:
            edges += [(nodes[config.chains * each + i], nodes[into, rows]) for i, into in enumerate(noise_into)]
        tokens = np.empty((n, self.seq_len), int)
        for place, edge in zip(ranks(rng.random((n, n_edges), dtype=np.float32)), edges, strict=True):
            write(tokens, 2 * place, *edge)

        hops = rng.integers(1, config.hops + 1, size=n) if config.ask_hops else np.full(n, config.hops)
        chain = rng.integers(config.chains, size=n)
        start = rng.integers(each - hops) if config.chains == 1 or config.any_node else config.edges - hops
        query_at, other_end_at = chain * each + start, (config.chains - 1 - chain) * each + config.edges
        key, label, other_end = (nodes[at, rows] for at in (query_at, query_at + hops, other_end_at))
        tokens[:, 2 * n_edges] = key
        if config.ask_hops:
            tokens[:, -1] = hops
        return Examples(
            tokens=tokens,
            label=label,
            group=hops - 1 if config.ask_hops else np.zeros(n, int),
            key=key,
            position=np.full(n, 2 * n_edges),
            foils={"shortcut": other_end} if self._asks_for_end else {},
        )

    def _draw(self, rng: np.random.Generator, split: Split, n: int) -> tuple[np.ndarray, np.ndarray]:
        """The nodes, `[nodes, n]`: one chain after the other, then one noise node per chain, all distinct within a sequence; and
        the index of the node that each noise node leads to, `[chains, n]`.
        """
        config, each = self.config, self.config.edges + 1
        in_split = [d for d in range(config.modulus) if (d in config.iid_differences) == (split == "iid")]
        differences = np.array(in_split, np.int32)  # small integers are several times faster
        per_residue = (config.key_max - config.key_min + 1) // config.modulus
        nodes, noise_into = np.empty((config.nodes, n), np.int32), np.empty((config.chains, n), int)
        todo = np.arange(n)
        while len(todo):  # redraw sequences that contain a node twice
            which = rng.integers(len(differences), size=(len(todo), config.nodes), dtype=np.int32)
            residue = np.ascontiguousarray(differences.take(which).T)
            for first in range(0, config.chains * each, each):
                residue[first] = rng.integers(config.modulus, size=len(todo), dtype=np.int32)
                for i in range(first + 1, first + each):
                    residue[i] += residue[i - 1]
            into = (rng.integers(1, each, size=(len(todo), config.chains)) + each * np.arange(config.chains)).T
            if config.noise:
                residue[config.chains * each :] = np.take_along_axis(residue, into, 0) - residue[config.chains * each :]
            residue -= residue // config.modulus * config.modulus  # faster than the remainder
            row = rng.integers(per_residue, size=residue.T.shape, dtype=np.int32).T
            drawn = config.key_min + residue + config.modulus * row
            for values, new in zip((*nodes, *noise_into), (*drawn, *into), strict=True):
                values[todo] = new
            repeated = np.zeros(len(todo), bool)
            for one, other in itertools.combinations(drawn, 2):
                repeated |= one == other
            todo = todo[repeated]
        return nodes.astype(int), noise_into

    def parse(self, tokens: Int[np.ndarray, "n seq_len"], parser: Parser) -> Answers:
        config, n_tokens = self.config, 2 * self._edges
        heads, tails, query = tokens[:, 0:n_tokens:2], tokens[:, 1:n_tokens:2], tokens[:, n_tokens]
        nodes = tokens[:, : n_tokens + 1]
        parser.require(((nodes >= config.key_min) & (nodes <= config.key_max)).all(1), "it holds a token that is not a node")
        hops = tokens[:, -1] if config.ask_hops else np.full(len(tokens), config.hops)
        parser.require((hops >= 1) & (hops <= config.hops), f"it does not ask for 1..{config.hops} hops")
        ranked = np.sort(heads, axis=1)
        parser.require((ranked[:, 1:] != ranked[:, :-1]).all(1), "two edges lead out of one node")

        follows = tails[:, :, None] == heads[:, None, :]  # [n, edge, next edge]
        to_end, end = np.ones_like(heads), tails
        from_start = np.ones_like(heads)
        for _ in range(config.edges):
            to_end = 1 + (follows * to_end[:, None, :]).sum(2)
            end = np.where(follows.any(2), (follows * end[:, None, :]).sum(2), tails)
            from_start = 1 + (follows * from_start[:, :, None]).max(1)
        together = end[:, :, None] == end[:, None, :]
        longest = (together * to_end[:, None, :]).max(2)
        what = f"{config.chains} chain{'s' * (config.chains > 1)} of {config.edges} edges" + " and noise" * config.noise
        parser.require(
            (longest == config.edges).all(1) & (together.sum(2) == config.edges + config.noise).all(1), f"its edges are not {what}"
        )

        node, at_query, other = query, heads == query[:, None], np.full(len(tokens), NO_ANSWER)
        for hop in range(config.hops):
            here = heads == node[:, None]
            parser.require(here.any(1) | (hop >= hops), "its query does not have that many hops")
            node = np.where(hop < hops, np.where(here, tails, 0).sum(1), node)
        if config.chains == 2:
            before_end = "on none of its chains" if config.any_node else f"not {config.hops} hops before the end of a chain"
            on_chain = (to_end + from_start == config.edges + 1) & at_query & (config.any_node | (to_end == config.hops))
            parser.require(on_chain.any(1), f"its query is {before_end}")
        if self._asks_for_end:
            other = np.where(end == node[:, None], 0, end).max(1)

        iid = np.isin((tails - heads) % config.modulus, config.iid_differences)
        split = np.where(iid.all(1), SPLITS.index("iid"), np.where(iid.any(1), NO_ANSWER, SPLITS.index("train")))
        return parser.answers(
            label=node,
            group=hops - 1 if config.ask_hops else np.zeros(len(tokens), int),
            key=query,
            position=np.full(len(tokens), n_tokens),
            split=split,
            foils={"shortcut": other} if self._asks_for_end else {},
        )

    def intermediate_values(self, tokens: Int[np.ndarray, "n seq_len"]) -> dict[str, Int[np.ndarray, " n"]]:
        """The node after each hop from the query, up to the number of hops asked; the last one present is the answer."""
        heads, tails = tokens[:, 0 : 2 * self._edges : 2], tokens[:, 1 : 2 * self._edges : 2]
        node = tokens[:, 2 * self._edges]
        hops = tokens[:, -1] if self.config.ask_hops else np.full(len(tokens), self.config.hops)
        values: dict[str, Int[np.ndarray, " n"]] = {}
        for hop in range(1, self.config.hops + 1):
            follows = (heads == node[:, None]).argmax(1)
            node = np.where(hop <= hops, read(tails, follows), NO_ANSWER)
            values[f"after_hop_{hop}"] = node
        return values


def ranks(values: Float[np.ndarray, "n size"]) -> Int[np.ndarray, "size n"]:
    """The rank of each value in its row; equal values keep their order."""
    columns = np.ascontiguousarray(values.T)
    place = np.zeros(columns.shape, np.int8)
    for i, j in itertools.combinations(range(len(columns)), 2):
        swapped = columns[j] < columns[i]
        place[i] += swapped
        place[j] += ~swapped
    return place
