"""Model internals under one set of names: activations, interventions on the residual stream, and weights.

Our own models run as one stack (`members` is the first axis) in a single forward pass; any other causal language model is opened
through TransformerLens and is a stack of one. Layers are counted from 0.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from anchorbench.hub.checkpoint import plain_session
from anchorbench.hub.models import (
    ANY_LENGTH,
    UNKNOWN_WORD,
    fresh_module,
    in_fp32,
    load_member,
    load_model,
    require_logits,
    run_module,
)
from anchorbench.model.gpt import GPT
from anchorbench.model.initialize import initialize
from anchorbench.model.initializers.rate import Rate
from anchorbench.parts import InitConfig
from anchorbench.sweeps.run_folder import Run

Edits = Mapping[int, Callable[[Tensor], Tensor]]
"""Layer -> function that replaces the residual stream `[members, batch, seq, d]` after that layer; not allowed for the last layer,
which only the unembedding reads.
"""

PROOF_LENGTH, SAME = 6, 1e-3
"""Number of tokens on which the TransformerLens version of a foreign architecture is checked against the model itself, and the
tolerance relative to the largest value: fp32 in another order of operations, through sharp attention."""


@dataclass(frozen=True)
class Activations:
    """The activations of a forward pass; lists have one item per layer."""

    logits: Float[Tensor, "members batch vocab"]
    """Logits at the last position."""
    patterns: list[Float[Tensor, "members batch head query key"]]
    """Attention patterns."""
    resid_mid: list[Float[Tensor, "members batch seq d"]]
    """The residual stream after attention (with post-LN, after the LayerNorm that follows it)."""
    resid_post: list[Float[Tensor, "members batch seq d"]]
    """The residual stream at the end of the layer, with the edit applied if there is one."""

    @property
    def answers(self) -> Int[Tensor, "members batch"]:
        """The most probable token after each sequence."""
        return self.logits.argmax(-1)


@dataclass(frozen=True)
class Internals:
    """Models with the same config, as read by the probes."""

    n_layer: int
    members: int
    vocab_size: int
    forward: Callable[[Tensor, Edits], Activations]
    """Forward pass over `tokens [members, batch, seq]`."""
    weights: dict[str, Float[Tensor, "members d_in d_out"]]
    """`embedding` (one row per token), `unembedding`, and for each layer i `query.i`, `key.i`, `value.i` (heads side by side) and
    `ff_in.i`, as far as the architecture has them."""
    untrained: Callable[[int], "Internals"]
    """seed -> models with the same config and freshly initialized weights."""
    max_length: int = ANY_LENGTH
    min_length: int = 1
    stack: GPT | None = None
    """The models themselves if they are ours, for probes that change or differentiate their weights; else None."""

    def weight(self, name: str) -> Float[Tensor, "members d_in d_out"]:
        """The weight matrix `name`. Raises ValueError if the model has no such matrix, or none that can be read."""
        if name not in self.weights:
            raise ValueError(f"the model has no matrix {name!r}; allowed: {', '.join(self.weights)}")
        return self.weights[name]

    @torch.no_grad()
    def run(self, tokens: Int[Tensor, "... batch seq"], edits: Edits | None = None) -> Activations:
        """Forward pass over `tokens`: `[members, batch, seq]`, or `[batch, seq]` shared by all members.

        Raises ValueError for a token outside the vocabulary, an unsupported length, or logits that are not finite.
        """
        if not self.min_length <= tokens.shape[-1] <= self.max_length:
            allowed = f"at most {self.max_length}" if self.min_length == 1 else f"exactly {self.max_length}"
            raise ValueError(f"the task's sequences have {tokens.shape[-1]} tokens; the model takes {allowed}")
        if int(tokens.max()) >= self.vocab_size:
            raise ValueError(f"the task uses token {int(tokens.max())}, but the model's vocabulary is 0..{self.vocab_size - 1}")
        activations = self.forward(tokens if tokens.ndim == 3 else tokens.expand(self.members, -1, -1), edits or {})
        require_logits(activations.logits)
        return activations


def open_internals(model: object) -> Internals:
    """Opens the internals of anything that `anchorbench.classify` accepts. Raises ValueError with one sentence as it does."""
    if isinstance(model, Internals):
        return model
    loaded = load_model(model)
    if isinstance(loaded, Run):
        return runs_internals([loaded])
    return stack_internals(in_fp32(loaded)) if isinstance(loaded, GPT) else _of_bridge(in_fp32(loaded))


def runs_internals(runs: Sequence[Run], step: int | None = None) -> Internals:
    """Internals of finished runs with the same config, as one stack; optionally at an intermediate step whose weights were kept.

    Raises ValueError if they differ in shape, vocabulary or length.
    """
    return side_by_side([load_member(run, step) for run in runs], [run.recipe.init for run in runs])


def side_by_side(models: Sequence[GPT], inits: Sequence[InitConfig] | None = None) -> Internals:
    """Joins stacks of one into a single stack. Raises ValueError if they differ in shape, vocabulary or length."""
    if len({(model.shape, model.vocab_size, model.seq_len) for model in models}) != 1:
        raise ValueError("the models differ in shape, vocabulary or length; allowed: models of one shape")
    first = models[0]
    with plain_session():
        stack = first.like(members=len(models))
    states = [model.state_dict() for model in models]
    stack.load_state_dict({name: torch.cat([state[name] for state in states]) for name in states[0]})
    return stack_internals(stack, inits)


def stack_internals(model: GPT, inits: Sequence[InitConfig] | None = None) -> Internals:
    """Internals of a stack; `inits` are the initializers of the members' untrained counterparts (default: gamma 0.5)."""
    drawn_by: list[InitConfig] = list(inits or [Rate.Config()] * model.members)
    device = model.token_embedding.device

    def forward(tokens: Tensor, edits: Edits) -> Activations:
        shape, inside = (*tokens.shape[:2], model.length, -1), model.inside
        patterns, resid_mid, resid_post = [], [], []
        with plain_session(device):
            x = model.embed(tokens.to(device))
            for layer, block in enumerate(model.layers):
                x, pattern = block.attend(x, model.length)
                patterns.append(pattern[..., inside, inside])
                resid_mid.append(x.view(shape)[:, :, inside])
                x = block.feed_forward(x).view(shape)
                if layer in edits:
                    x = x.clone()
                    x[:, :, inside] = edits[layer](x[:, :, inside])
                resid_post.append(x[:, :, inside])
                x = x.flatten(1, 2)
            return Activations(model.unembed(x.view(shape)[:, :, -1]), patterns, resid_mid, resid_post)

    def untrained(seed: int) -> Internals:
        with plain_session():
            fresh = model.like(members=model.members)
            initialize(fresh, drawn_by, [seed] * model.members)
        return stack_internals(fresh, drawn_by)

    weights = {"embedding": model.token_embedding.detach(), "unembedding": model.unembedding.weight.detach()}
    for layer, block in enumerate(model.layers):
        for name in ("query", "key", "value", "ff_in"):
            weights[f"{name}.{layer}"] = getattr(block, name).weight.detach()
    lengths = {"max_length": model.seq_len, "min_length": model.seq_len}
    return Internals(len(model.layers), model.members, model.vocab_size, forward, weights, untrained, **lengths, stack=model)


def _of_bridge(model: nn.Module) -> Internals:
    """Internals of a Hugging Face causal LM or a TransformerBridge. Raises ValueError if they do not reproduce the model."""
    bridge: Any = model if hasattr(model, "original_model") else _bridge(model)
    blocks = [f"blocks.{layer}" for layer in range(bridge.cfg.n_layers)]
    device = next(bridge.parameters()).device

    def forward(tokens: Tensor, edits: Edits) -> Activations:
        seen: dict[str, Tensor] = {}

        def keep(name: str, x: Tensor, hook: Any) -> Tensor:
            if ends.get(name, -1) in edits:
                x = edits[ends[name]](x[None])[0]
            seen[name] = x
            return x

        # resid_post is read as the next layer's input: post-LN blocks of TransformerLens have no hook for it.
        ends = {f"{block}.hook_in": layer - 1 for layer, block in enumerate(blocks)}
        last = "ln_final.hook_in" if "ln_final.hook_in" in bridge.hook_dict else "unembed.hook_in"
        kept = ("hook_in", "hook_attn_out", "hook_resid_mid", "attn.hook_pattern")
        wanted = [f"{block}.{name}" for block in blocks for name in kept]
        names = [name for name in (*wanted, last) if name in bridge.hook_dict]
        with plain_session(device):
            logits = bridge.run_with_hooks(tokens[0].to(device), fwd_hooks=[(name, partial(keep, name)) for name in names])
        resid_mid = [  # parallel attention and MLP blocks have no resid_mid
            seen[f"{block}.hook_resid_mid"]
            if f"{block}.hook_resid_mid" in seen
            else seen[f"{block}.hook_in"] + seen[f"{block}.hook_attn_out"]
            for block in blocks
        ]
        resid_post = [*(seen[f"{block}.hook_in"] for block in blocks[1:]), seen[last]]
        patterns = [seen[f"{block}.attn.hook_pattern"] for block in blocks]
        return Activations(logits[:, -1][None], *([x[None] for x in layers] for layers in (patterns, resid_mid, resid_post)))

    opened = Internals(
        n_layer=len(blocks),
        members=1,
        vocab_size=bridge.cfg.d_vocab,
        forward=forward,
        weights=_bridge_weights(bridge),
        untrained=lambda seed: _of_bridge(fresh_module(bridge.original_model, seed)),
        max_length=bridge.cfg.n_ctx,
    )
    if bridge is not model:
        _require_same(opened, model)
    return opened


def _bridge_weights(bridge: Any) -> dict[str, Tensor]:
    """The entries of `Internals.weights` that the architecture has: mixtures of experts, for instance, have no single `ff_in`."""
    readers: dict[str, Callable[[], Tensor]] = {"embedding": lambda: bridge.W_E, "unembedding": lambda: bridge.W_U}
    for layer, block in enumerate(bridge.blocks):
        for name in ("query", "key", "value"):
            readers[f"{name}.{layer}"] = lambda block=block, name=name: (
                getattr(block.attn, f"W_{name[0].upper()}").transpose(0, 1).flatten(1)
            )
        readers[f"ff_in.{layer}"] = lambda block=block: block.mlp.W_in
    found: dict[str, Tensor] = {}
    for name, reader in readers.items():
        with suppress(Exception):  # TransformerLens reports a missing matrix differently for each architecture
            found[name] = reader().detach()[None]
    return found


@torch.no_grad()
def _require_same(opened: Internals, model: Any) -> None:
    """Raises ValueError unless logits, attention and residual resid_post match the model's own on a few random tokens."""
    name = type(model).__name__
    generator = torch.Generator("cpu").manual_seed(0)
    length = min(PROOF_LENGTH, opened.max_length)
    tokens = torch.randint(opened.vocab_size, (2, length), generator=generator, device="cpu")
    try:
        seen = opened.forward(tokens[None], {})
    except Exception as error:
        raise ValueError(f"probes cannot look inside {name}: TransformerLens does not show its attention and resid_post") from error
    said = run_module(model, tokens, output_hidden_states=True, output_attentions=True)
    pairs = [("logits", seen.logits[0], said.logits[:, -1])]
    pairs += [("attention", ours[0], theirs) for ours, theirs in zip(seen.patterns, said.attentions or (), strict=False)]
    pairs += [("resid_post", ours[0], theirs) for ours, theirs in zip(seen.resid_post[:-1], said.hidden_states[1:], strict=False)]
    for what, ours, theirs in pairs:
        largest = float(theirs.nan_to_num(0.0, 0.0, 0.0).abs().max())
        same = torch.allclose if ours.shape == theirs.shape else lambda *_, **__: False
        if not same(ours, theirs.to(ours.device), atol=SAME * largest, rtol=SAME, equal_nan=True):
            raise ValueError(f"probes cannot look inside {name}: TransformerLens reads other {what} than the model has")


def _bridge(model: Any) -> Any:
    """A TransformerBridge of a copy of the model, whose modules it replaces. Raises ValueError for an unknown architecture."""
    from tokenizers import Tokenizer, models
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedTokenizerFast

    model = copy.deepcopy(model)
    name = type(model).__name__
    # Our subclass has the modules of its parent, which TransformerLens knows.
    model.config.architectures = ["OpenAIGPTLMHeadModel" if name == "AnchorGPTForCausalLM" else name]
    # A bridge requires a tokenizer and would look for one on the Hub; the probes use token ids.
    word_level = Tokenizer(models.WordLevel({UNKNOWN_WORD: 0}, unk_token=UNKNOWN_WORD))
    words = PreTrainedTokenizerFast(tokenizer_object=word_level, unk_token=UNKNOWN_WORD)
    try:
        with plain_session():
            return TransformerBridge.boot_transformers(name, hf_model=model, tokenizer=words)
    except Exception as error:
        raise ValueError(f"probes cannot look inside {name}: TransformerLens does not read this architecture") from error
