"""The one adapter through which everything reads a model: logits, attention, residual streams, patching and weights.

Our own models run as one stack (`members` is the first axis) in a single forward pass. Any other causal language model is a stack
of one: its logits come from the model itself, everything else through TransformerLens, which is started only when needed, since it
does not support every architecture. Layers are counted from 0.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from anchorbench.hub.checkpoint import plain_session
from anchorbench.hub.models import UNKNOWN_WORD, load_member, load_model, with_own_task, word_level
from anchorbench.model.gpt import GPT
from anchorbench.model.initialize import initialize
from anchorbench.model.initializers.rate import Rate
from anchorbench.parts import InitConfig
from anchorbench.sweeps.run_folder import Run
from anchorbench.task import Task

Place = Literal["resid_mid", "resid_post"]


class Site(NamedTuple):
    """A place in the residual stream."""

    layer: int
    place: Place


Edits = Mapping[Site, Callable[[Tensor], Tensor]]
"""Site -> function that replaces the residual stream `[members, batch, seq, d]` there; not allowed for resid_post of the last
layer, which only the unembedding reads.
"""
Module = TypeVar("Module", bound=nn.Module)

BATCH = 512
"""Sequences per batch when only answers are read."""
ANY_LENGTH = 2**31
SURVEY = 4000
"""Examples drawn per split to find out which ids a task uses."""
PROOF_LENGTH, SAME = 6, 1e-3
"""Number of tokens on which the TransformerLens version of a foreign architecture is checked against the model itself, and the
tolerance relative to the largest value: fp32 in a different order of operations, amplified by sharp attention."""
NOT_FINITE = "the model's output is not finite (NaN or infinity): its weights are damaged or it diverged"


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


class OpenModel(ABC):
    """One model, or a stack of ours with one config, opened for reading."""

    module: Any
    """The model itself."""
    members: int = 1
    vocab_size: int
    max_length: int
    min_length: int = 1

    @property
    @abstractmethod
    def n_layer(self) -> int:
        """Number of layers. Raises ValueError as `look_inside` does."""

    @cached_property
    def weights(self) -> dict[str, Float[Tensor, "members d_in d_out"]]:
        """`embedding` (one row per token), `unembedding`, and for each layer i `query.i`, `key.i`, `value.i` (heads side by side)
        and `ff_in.i`, as far as the architecture has them. Raises ValueError as `look_inside` does.
        """
        return self._weights()

    @abstractmethod
    def untrained(self, seed: int) -> "OpenModel":
        """Models with the same config and fresh initial weights. Raises ValueError if the config alone does not make one."""

    # Implemented by each family of models; the tokens, `[members, batch, seq]`, are already checked.

    @abstractmethod
    def _logits(self, tokens: Tensor) -> Tensor: ...

    @abstractmethod
    def _activations(self, tokens: Tensor, edits: Edits) -> Activations: ...

    @abstractmethod
    def _weights(self) -> dict[str, Tensor]: ...

    def look_inside(self) -> "OpenModel":
        """The model itself. Raises ValueError with one sentence if it gives logits only."""
        _ = self.n_layer
        return self

    @torch.no_grad()
    def logits(self, tokens: Int[Tensor, "*members batch seq"]) -> Float[Tensor, "members batch vocab"]:
        """Logits at the last position after `tokens`: `[members, batch, seq]`, or `[batch, seq]` shared by all members.

        Raises ValueError for a token outside the vocabulary, an unsupported length, or logits that are not finite.
        """
        return require_logits(self._logits(self._fitting(tokens)))

    def answers(self, tokens: Int[np.ndarray, "n seq"]) -> Int[np.ndarray, "members n"]:
        """Each member's most probable next token after `tokens [n, seq]`. Raises ValueError as `logits` does."""
        return torch.cat([self.logits(part).argmax(-1) for part in torch.from_numpy(tokens).split(BATCH)], 1).cpu().numpy()

    @torch.no_grad()
    def run(self, tokens: Int[Tensor, "*members batch seq"], edits: Edits | None = None) -> Activations:
        """All activations of a forward pass over `tokens`, shaped as for `logits`, with `edits` applied.

        Raises ValueError as `logits` and `look_inside` do.
        """
        activations = self._activations(self._fitting(tokens), edits or {})
        require_logits(activations.logits)
        return activations

    def weight(self, name: str) -> Float[Tensor, "members d_in d_out"]:
        """The weight matrix `name`. Raises ValueError if the model has no such matrix, or none that can be read."""
        if name not in self.weights:
            raise ValueError(f"the model has no matrix {name!r}; allowed: {', '.join(self.weights)}")
        return self.weights[name]

    def _fitting(self, tokens: Tensor) -> Tensor:
        """`[members, batch, seq]`, if the model takes such tokens."""
        if not self.min_length <= tokens.shape[-1] <= self.max_length:
            allowed = f"at most {self.max_length}" if self.min_length == 1 else f"exactly {self.max_length}"
            raise ValueError(f"the task's sequences have {tokens.shape[-1]} tokens; the model takes {allowed}")
        if int(tokens.max()) >= self.vocab_size:
            raise ValueError(f"the task uses token {int(tokens.max())}, but the model's vocabulary is 0..{self.vocab_size - 1}")
        return tokens if tokens.ndim == 3 else tokens.expand(self.members, -1, -1)


def open_model(model: object) -> OpenModel:
    """Opens a run folder, a checkpoint folder or Hub id, a `Run`, a stack of one, a Hugging Face causal LM or a TransformerBridge.

    Raises ValueError with one sentence for anything else, or a damaged or unsupported checkpoint.
    """
    if isinstance(model, OpenModel):
        return model
    loaded = load_model(model)
    if isinstance(loaded, Run):
        return open_runs([loaded])
    loaded = in_fp32(loaded)
    return StackModel(loaded) if isinstance(loaded, GPT) else ForeignModel(loaded)


def open_one(model: object, task: Task) -> tuple[OpenModel, Task]:
    """Opens one model and the task that it was trained on.

    Raises ValueError as `anchorbench.classify` does, and for a stack of several members.
    """
    model, task = with_own_task(model, task)
    opened = open_model(model)
    if opened.members != 1:
        raise ValueError(f"the stack has {opened.members} members; allowed: 1, pick one first")
    require_vocabulary(opened.vocab_size, task)
    return opened, task


def open_runs(runs: Sequence[Run], step: int | None = None) -> "StackModel":
    """Opens finished runs with the same config as one stack; optionally at an intermediate step whose weights were kept.

    Raises ValueError if they differ in shape, vocabulary or length.
    """
    return side_by_side([load_member(run, step) for run in runs], [run.recipe.init for run in runs])


def side_by_side(models: Sequence[GPT], inits: Sequence[InitConfig] | None = None) -> "StackModel":
    """Joins stacks of one into a single stack. Raises ValueError if they differ in shape, vocabulary or length."""
    if len({(model.shape, model.vocab_size, model.seq_len) for model in models}) != 1:
        raise ValueError("the models differ in shape, vocabulary or length; allowed: models of one shape")
    first = models[0]
    with plain_session():
        stack = first.like(members=len(models))
    states = [model.state_dict() for model in models]
    stack.load_state_dict({name: torch.cat([state[name] for state in states]) for name in states[0]})
    return StackModel(stack, inits)


def require_logits(logits: Float[Tensor, "*batch vocab"]) -> Float[Tensor, "*batch vocab"]:
    """Returns the logits if they are valid. Some models give minus infinity to ids that cannot follow, but never to all ids.

    Raises ValueError for NaN, plus infinity, or minus infinity everywhere.
    """
    if not (logits.amax(-1).isfinite().all()):  # amax propagates NaN
        raise ValueError(NOT_FINITE)
    return logits


def require_vocabulary(vocab_size: int, task: Task) -> None:
    """Raises ValueError if a vocabulary of `vocab_size` ids lacks any id that occurs in the task's sequences or answers."""
    if task.vocab_size <= vocab_size:
        return
    drawn = [task.sample(split, SURVEY, 0) for split in task.splits]
    tokens, labels = ({int(x) for examples in drawn for x in np.unique(getattr(examples, name))} for name in ("tokens", "label"))
    lacking = sorted(number for number in tokens | labels if number >= vocab_size)
    if lacking:
        asked = " (some are answers)" if any(number in labels for number in lacking) else ""
        ids = f"id {lacking[0]}" if len(lacking) == 1 else f"{len(lacking)} ids from {lacking[0]} to {lacking[-1]}"
        raise ValueError(f"the model's vocabulary is 0..{vocab_size - 1}, but task {task.name} also uses {ids}{asked}")


def in_fp32(model: Module) -> Module:
    """The model itself if it is entirely fp32, else an fp32 copy; the caller's model is not modified."""
    if all(x.dtype == torch.float32 for x in (*model.parameters(), *model.buffers()) if x.is_floating_point()):
        return model
    with plain_session():
        return copy.deepcopy(model).float()


class StackModel(OpenModel):
    """A stack of ours; `inits` are the initializers of the members' untrained counterparts (default: gamma 0.5)."""

    module: GPT

    def __init__(self, module: GPT, inits: Sequence[InitConfig] | None = None) -> None:
        self.module = module
        self.members, self.vocab_size = module.members, module.vocab_size
        self.min_length = self.max_length = module.seq_len
        self._inits: list[InitConfig] = list(inits or [Rate.Config()] * module.members)
        self._device = module.token_embedding.device

    @property
    def n_layer(self) -> int:
        return len(self.module.layers)

    def untrained(self, seed: int) -> "StackModel":
        with plain_session():
            fresh = self.module.like(members=self.members)
            initialize(fresh, self._inits, [seed] * self.members)
        return StackModel(fresh, self._inits)

    def _logits(self, tokens: Tensor) -> Tensor:
        with plain_session(self._device):
            return self.module(tokens.to(self._device))

    def _activations(self, tokens: Tensor, edits: Edits) -> Activations:
        model, inside = self.module, self.module.inside
        shape = (*tokens.shape[:2], model.length, -1)
        patterns, resid_mid, resid_post = [], [], []
        with plain_session(self._device):
            x = model.embed(tokens.to(self._device))
            for layer, block in enumerate(model.layers):
                x, pattern = block.attend(x, model.length)
                patterns.append(pattern[..., inside, inside])
                places: list[tuple[Place, list[Tensor]]] = [("resid_mid", resid_mid), ("resid_post", resid_post)]
                for place, streams in places:
                    x = (x if place == "resid_mid" else block.feed_forward(x)).view(shape)
                    if edit := edits.get(Site(layer, place)):
                        x = x.clone()
                        x[:, :, inside] = edit(x[:, :, inside])
                    streams.append(x[:, :, inside])
                    x = x.flatten(1, 2)
            return Activations(model.unembed(x.view(shape)[:, :, -1]), patterns, resid_mid, resid_post)

    def _weights(self) -> dict[str, Tensor]:
        model = self.module
        weights = {"embedding": model.token_embedding.detach(), "unembedding": model.unembedding.weight.detach()}
        for layer, block in enumerate(model.layers):
            for name in ("query", "key", "value", "ff_in"):
                weights[f"{name}.{layer}"] = getattr(block, name).weight.detach()
        return weights


class ForeignModel(OpenModel):
    """A Hugging Face causal LM or a TransformerBridge. Raises ValueError for a model that is not causal."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self._is_bridge = hasattr(module, "original_model")
        if self._is_bridge:
            self.vocab_size, self.max_length = module.cfg.d_vocab, module.cfg.n_ctx
        else:
            _require_causal(module)
            text = module.config.get_text_config()
            self.vocab_size, self.max_length = text.vocab_size, getattr(text, "max_position_embeddings", None) or ANY_LENGTH

    @property
    def n_layer(self) -> int:
        return self._bridge.cfg.n_layers

    def untrained(self, seed: int) -> "ForeignModel":
        return ForeignModel(fresh_module(self.module.original_model if self._is_bridge else self.module, seed))

    def _logits(self, tokens: Tensor) -> Tensor:
        said = run_module(self.module, tokens[0])
        return (said if self._is_bridge else said.logits)[None, :, -1]

    def _activations(self, tokens: Tensor, edits: Edits) -> Activations:
        return _run_bridge(self._bridge, tokens[0], edits)

    def _weights(self) -> dict[str, Tensor]:
        """An architecture may lack some of them: a mixture of experts, for instance, has no single `ff_in`."""
        readers: dict[str, Callable[[], Tensor]] = {
            "embedding": lambda: self._bridge.W_E,
            "unembedding": lambda: self._bridge.W_U,
        }
        for layer, block in enumerate(self._bridge.blocks):
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

    @cached_property
    def _bridge(self) -> Any:
        """The model in TransformerLens. Raises ValueError if it does not support the architecture, or computes other values."""
        if self._is_bridge:
            return self.module
        bridge = _to_bridge(self.module)
        _require_same(bridge, self.module)
        return bridge


def run_module(model: Any, tokens: Int[Tensor, "batch seq"], **options: bool) -> Any:
    """Output of a Hugging Face model on `tokens [batch, seq]`, in fp32 and without dropout; the model's modes are restored.

    Raises ValueError if it cannot run on token ids alone.
    """
    device = next(model.parameters()).device
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with plain_session(device):
            return model(tokens.to(device), **options)
    except Exception as error:
        raise ValueError(f"{type(model).__name__} does not run on token ids alone ({type(error).__name__})") from error
    finally:
        for module, training in modes:
            module.training = training


def fresh_module(model: Any, seed: int) -> Any:
    """A model of the same class and config with fresh initial weights, drawn from `seed`, on the CPU in fp32.

    Raises ValueError if the class cannot be constructed from a config alone.
    """
    config = copy.deepcopy(model.config)
    config._attn_implementation = "eager"  # other implementations return no attention patterns
    try:
        with plain_session(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return type(model)(config).eval()
    except Exception as error:
        raise ValueError(f"no untrained {type(model).__name__} can be made from its configuration, as a control") from error


@torch.no_grad()
def _require_causal(model: Any) -> None:
    """Raises ValueError if the output at the first position depends on the second token, as in an encoder."""
    first, other = run_module(model, torch.tensor([[0, 0], [0, 1]], device="cpu")).logits[:, 0]
    if not torch.allclose(first, other, rtol=1e-3, atol=1e-5, equal_nan=True):
        raise ValueError(f"{type(model).__name__} is not causal: its positions see later ones; allowed: causal language models")


def _run_bridge(bridge: Any, tokens: Tensor, edits: Edits) -> Activations:
    """The activations of a TransformerBridge on `tokens [batch, seq]`, as a stack of one."""
    seen: dict[str, Tensor] = {}

    def keep(name: str, x: Tensor, hook: Any) -> Tensor:
        if (edit := edits.get(Site(ends.get(name, -1), "resid_post"))) is not None:
            x = edit(x[None])[0]
        if (edit := edits.get(Site(attended.get(name, -1), "resid_mid"))) is not None:
            before = seen[name.replace("hook_attn_out", "hook_in")]
            x = edit((before + x)[None])[0] - before
        seen[name] = x
        return x

    # resid_post is read as the next layer's input: post-LN blocks of TransformerLens have no hook for it.
    blocks = [f"blocks.{layer}" for layer in range(bridge.cfg.n_layers)]
    ends = {f"{block}.hook_in": layer - 1 for layer, block in enumerate(blocks)}
    attended = {f"{block}.hook_attn_out": layer for layer, block in enumerate(blocks)}
    last = "ln_final.hook_in" if "ln_final.hook_in" in bridge.hook_dict else "unembed.hook_in"
    kept = ("hook_in", "hook_attn_out", "hook_resid_mid", "attn.hook_pattern")
    wanted = [f"{block}.{name}" for block in blocks for name in kept]
    names = [name for name in (*wanted, last) if name in bridge.hook_dict]
    device = next(bridge.parameters()).device
    with plain_session(device):
        logits = bridge.run_with_hooks(tokens.to(device), fwd_hooks=[(name, partial(keep, name)) for name in names])
    resid_mid = [  # parallel attention and MLP blocks have no resid_mid
        seen[f"{block}.hook_resid_mid"]
        if f"{block}.hook_resid_mid" in seen
        else seen[f"{block}.hook_in"] + seen[f"{block}.hook_attn_out"]
        for block in blocks
    ]
    resid_post = [*(seen[f"{block}.hook_in"] for block in blocks[1:]), seen[last]]
    patterns = [seen[f"{block}.attn.hook_pattern"] for block in blocks]
    return Activations(logits[None, :, -1], *([x[None] for x in layers] for layers in (patterns, resid_mid, resid_post)))


@torch.no_grad()
def _require_same(bridge: Any, model: Any) -> None:
    """Raises ValueError unless logits, attention and residual stream match the model's own on a few random tokens."""
    name = type(model).__name__
    generator = torch.Generator("cpu").manual_seed(0)
    length = min(PROOF_LENGTH, bridge.cfg.n_ctx)
    tokens = torch.randint(bridge.cfg.d_vocab, (2, length), generator=generator, device="cpu")
    try:
        seen = _run_bridge(bridge, tokens, {})
    except Exception as error:
        raise ValueError(
            f"probes cannot look inside {name}: TransformerLens does not give attention and residual stream"
        ) from error
    said = run_module(model, tokens, output_hidden_states=True, output_attentions=True)
    pairs = [("logits", seen.logits[0], said.logits[:, -1])]
    pairs += [("attention", ours[0], theirs) for ours, theirs in zip(seen.patterns, said.attentions or (), strict=False)]
    hidden = zip(seen.resid_post[:-1], said.hidden_states[1:], strict=False)
    pairs += [("residual stream", ours[0], theirs) for ours, theirs in hidden]
    for what, ours, theirs in pairs:
        largest = float(theirs.nan_to_num(0.0, 0.0, 0.0).abs().max())
        same = torch.allclose if ours.shape == theirs.shape else lambda *_, **__: False
        if not same(ours, theirs.to(ours.device), atol=SAME * largest, rtol=SAME, equal_nan=True):
            raise ValueError(f"probes cannot look inside {name}: TransformerLens computes other {what} than the model")


def _to_bridge(model: Any) -> Any:
    """A TransformerBridge of a copy of the model, whose modules it replaces. Raises ValueError for an unknown architecture."""
    from transformer_lens.model_bridge import TransformerBridge

    model = copy.deepcopy(model)
    name = type(model).__name__
    # Our subclass has the modules of its parent, which TransformerLens supports.
    model.config.architectures = ["OpenAIGPTLMHeadModel" if name == "AnchorGPTForCausalLM" else name]
    words = word_level({UNKNOWN_WORD: 0})  # a bridge requires a tokenizer and would look for one on the Hub; we use token ids
    try:
        with plain_session():
            return TransformerBridge.boot_transformers(name, hf_model=model, tokenizer=words)
    except Exception as error:
        raise ValueError(f"probes cannot look inside {name}: TransformerLens does not support this architecture") from error
