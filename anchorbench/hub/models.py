"""Opens checkpoints of any origin, and exports a trained member as a Hugging Face checkpoint.

Pre-LN members become plain GPT-2, post-LN ones plain OpenAI GPT (the first GPT, which is post-LN) or, with exact GELU, an output
bias or d_ff other than 4 d_model, our subclass of it, which `import anchorbench.hf` registers with transformers. Heads narrower
than d_model / n_head are zero-padded, which leaves every logit unchanged. A word-level tokenizer of the task's vocabulary is
saved with the weights.
"""

import copy
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from torch import Tensor, nn

from anchorbench.files import new_folder, read_json
from anchorbench.hub.checkpoint import CONFIG, fetch, load_checkpoint, plain_session
from anchorbench.model.gpt import GPT, is_gpt, new_model
from anchorbench.model.initialize import initialize
from anchorbench.model.initializers.rate import Rate
from anchorbench.parts import InitConfig
from anchorbench.sweeps.run_folder import DamagedRunError, Run, read_run
from anchorbench.task import Task

BATCH = 512
Module = TypeVar("Module", bound=nn.Module)
ANY_LENGTH = 2**31
SURVEY = 4000
"""Examples drawn per split to find out which ids a task uses."""
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
UNKNOWN_WORD = "[UNK]"
"""TransformerLens looks up an unknown word in every tokenizer; this word's id is outside the model's vocabulary."""


@dataclass(frozen=True)
class OpenModel:
    """A causal language model of any origin, as used by the probes."""

    logits: Callable[[Tensor], Tensor]
    """tokens `[batch, seq]` -> logits at the last position `[batch, vocab]`."""
    patterns: Callable[[Tensor], list[Tensor]]
    """tokens `[batch, seq]` -> attention pattern of each layer `[batch, head, query, key]`."""
    untrained: Callable[[int], "OpenModel"]
    """seed -> a model with the same config and freshly initialized weights."""
    vocab_size: int
    max_length: int
    min_length: int = 1

    @torch.no_grad()
    def answers(self, tokens: Int[np.ndarray, "n seq"]) -> Int[np.ndarray, " n"]:
        """The most probable next token after each of `tokens [n, seq]`.

        Raises ValueError if the model's vocabulary or context is too small, or its logits are invalid.
        """
        self._require_fit(tokens)
        logits = torch.cat([require_logits(self.logits(part)) for part in torch.from_numpy(tokens).split(BATCH)])
        return logits.argmax(-1).cpu().numpy()

    @torch.no_grad()
    def attention(self, tokens: Int[np.ndarray, "n seq"]) -> list[Float[np.ndarray, "n head query key"]]:
        """Attention pattern of each layer, `[n, head, query, key]`, on `tokens [n, seq]`. Raises ValueError as `answers` does."""
        self._require_fit(tokens)
        parts = [self.patterns(part) for part in torch.from_numpy(tokens).split(BATCH)]
        layers = [torch.cat(layer) for layer in zip(*parts, strict=True)]
        if not all(layer.isfinite().all() for layer in layers):
            raise ValueError(NOT_FINITE)
        return [layer.cpu().numpy() for layer in layers]

    def _require_fit(self, tokens: np.ndarray) -> None:
        if tokens.max(initial=0) >= self.vocab_size:
            raise ValueError(f"the task uses token {tokens.max()}, but the model's vocabulary is 0..{self.vocab_size - 1}")
        if not self.min_length <= tokens.shape[1] <= self.max_length:
            allowed = f"at most {self.max_length}" if self.min_length == 1 else f"exactly {self.max_length}"
            raise ValueError(f"the task's sequences have {tokens.shape[1]} tokens; the model takes {allowed}")


NOT_FINITE = "the model's output is not finite (NaN or infinity): its weights are damaged or it diverged"


def require_logits(logits: Float[Tensor, "*batch vocab"]) -> Float[Tensor, "*batch vocab"]:
    """Returns the logits if they are valid. Some models use minus infinity for ids that never follow, but never for all ids.

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


def open_model(model: object) -> OpenModel:
    """Opens a run folder, a checkpoint folder or Hub id, a `Run`, a stack of one, a Hugging Face causal LM or a TransformerBridge.

    Raises ValueError with one sentence for anything else, or a damaged or unsupported checkpoint.
    """
    if isinstance(model, OpenModel):
        return model
    loaded = load_model(model)
    if isinstance(loaded, Run):
        return _open_gpt(load_member(loaded), loaded.recipe.init)
    loaded = in_fp32(loaded)
    if isinstance(loaded, GPT):
        return _open_gpt(loaded, Rate.Config())
    return _open_bridge(loaded) if hasattr(loaded, "original_model") else _open_transformers(loaded)


def load_model(model: object) -> Run | GPT | nn.Module:
    """Resolves the argument of `open_model` to a run, a stack of one, or a module, reading paths. Raises ValueError as it does."""
    if isinstance(model, str | Path):
        folder = Path(model)
        if folder.is_dir():
            if (folder / CONFIG).exists():
                return load_checkpoint(folder)
            if (folder / "digests.json").exists():
                return read_run(folder)
            raise ValueError(f"folder {folder} holds neither a checkpoint (config.json) nor a finished run (digests.json)")
        if isinstance(model, Path) or folder.exists() or not HUB_ID.fullmatch(model):
            raise ValueError(f"{model} is neither a folder nor a Hub id such as openai-community/gpt2")
        return load_checkpoint(fetch(model), model)
    if isinstance(model, nn.Module):
        model = unwrapped(model)
    if isinstance(model, GPT) and model.members != 1:
        raise ValueError(f"the stack has {model.members} members; allowed: 1, pick one first")
    if isinstance(model, Run | GPT):
        return model
    if isinstance(model, nn.Module) and (hasattr(model, "original_model") or hasattr(getattr(model, "config", None), "vocab_size")):
        return model
    raise ValueError(f"{type(model).__name__} is not a model; allowed: a path, a run, or a causal language model")


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside wrappers such as those of torch.compile and DataParallel."""
    while isinstance(inner := getattr(model, "_orig_mod", getattr(model, "module", None)), nn.Module):
        model = inner
    return model


def in_fp32(model: Module) -> Module:
    """The model itself if it is entirely fp32, else an fp32 copy; the caller's model is not modified."""
    if all(x.dtype == torch.float32 for x in (*model.parameters(), *model.buffers()) if x.is_floating_point()):
        return model
    with plain_session():
        return copy.deepcopy(model).float()


def with_own_task(model: object, task: Task) -> tuple[object, Task]:
    """The model (loaded if it is a run folder) and the task to evaluate it on. A run trained on the task's variant uses its own
    task, since the held-out groups may rotate over seeds.
    """
    if isinstance(model, str | Path) and (Path(model) / "digests.json").exists():
        model = read_run(Path(model))
    if isinstance(model, Run) and (model.result.task, model.result.variant) == (task.name, task.variant):
        task = model.recipe.load_task()
    return model, task


def load_member(run: Run, step: int | None = None) -> GPT:
    """A finished run's model as a stack of one, optionally at an intermediate step whose weights were kept.

    Raises DamagedRunError if its weights do not fit its recipe, ValueError if the step was not kept.
    """
    task = run.recipe.load_task()
    with plain_session():
        shape = run.recipe.model_at(run.result.steps_trained if step is None else step)
        model = new_model(shape, members=1, vocab_size=task.vocab_size, seq_len=task.seq_len)
    try:
        model.load_state_dict({name: tensor[None] for name, tensor in run.weights(step).items()})
    except RuntimeError as error:
        raise DamagedRunError(
            f"{run.path / 'weights.safetensors'} does not fit its recipe: {str(error).splitlines()[1].strip()}"
        ) from None
    return model.eval().requires_grad_(False)


def _open_gpt(model: GPT, init: InitConfig) -> OpenModel:
    device = model.token_embedding.device

    def logits(tokens: Tensor) -> Tensor:
        with plain_session(device):
            return model(tokens[None].to(device))[0]

    def patterns(tokens: Tensor) -> list[Tensor]:
        with plain_session(device):
            return [pattern[0] for pattern in model.attention(tokens[None].to(device))]

    def untrained(seed: int) -> OpenModel:
        with plain_session():
            fresh = model.like(members=1)
            initialize(fresh, [init], [seed])
        return _open_gpt(fresh.requires_grad_(False), init)

    return OpenModel(
        logits=logits,
        patterns=patterns,
        untrained=untrained,
        vocab_size=model.vocab_size,
        max_length=model.seq_len,
        min_length=model.seq_len,
    )


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


def _open_transformers(model: Any) -> OpenModel:
    _require_causal(model)
    text = model.config.get_text_config()

    def patterns(tokens: Tensor) -> list[Tensor]:
        attentions = getattr(run_module(model, tokens, output_attentions=True), "attentions", None)
        if not attentions or attentions[0] is None:
            raise ValueError('the model returns no attention; load it with attn_implementation="eager"')
        return list(attentions)

    return OpenModel(
        logits=lambda tokens: run_module(model, tokens).logits[:, -1],
        patterns=patterns,
        untrained=lambda seed: _open_transformers(fresh_module(model, seed)),
        vocab_size=text.vocab_size,
        max_length=getattr(text, "max_position_embeddings", None) or ANY_LENGTH,
    )


@torch.no_grad()
def _require_causal(model: Any) -> None:
    """Raises ValueError if the output at the first position depends on the second token, as in an encoder."""
    first, other = run_module(model, torch.tensor([[0, 0], [0, 1]], device="cpu")).logits[:, 0]
    if not torch.allclose(first, other, rtol=1e-3, atol=1e-5, equal_nan=True):
        raise ValueError(f"{type(model).__name__} is not causal: its positions see what follows; allowed: causal language models")


def _open_bridge(bridge: Any) -> OpenModel:
    """Opens a TransformerBridge. It has replaced the original model's modules, so logits and attention come from its own hooks."""
    device = next(bridge.parameters()).device

    def logits(tokens: Tensor) -> Tensor:
        with plain_session(device):
            return bridge(tokens.to(device))[:, -1]

    def patterns(tokens: Tensor) -> list[Tensor]:
        with plain_session(device):
            _, cache = bridge.run_with_cache(tokens.to(device), names_filter=lambda name: name.endswith("attn.hook_pattern"))
        return [cache["pattern", layer] for layer in range(bridge.cfg.n_layers)]

    return OpenModel(
        logits=logits,
        patterns=patterns,
        untrained=lambda seed: _open_transformers(fresh_module(bridge.original_model, seed)),
        vocab_size=bridge.cfg.d_vocab,
        max_length=bridge.cfg.n_ctx,
    )


def export(run: Run, out: Path, step: int | None = None) -> Path:
    """Writes the run's model to the folder `out` as a Hugging Face checkpoint with the same logits, for `from_pretrained`.

    Raises ValueError with one sentence if `out` is a non-empty folder or the model config has no Hugging Face counterpart.
    """
    card = json.dumps(
        {"run_id": run.result.run_id, "verdict": run.result.verdict, "recipe": run.recipe.model_dump(mode="json")}, indent=1
    )
    try:
        with new_folder(out, marker="config.json") as folder:
            model = to_transformers(load_member(run, step))
            with plain_session():
                model.save_pretrained(folder)
            _name_parent_architecture(folder / "config.json")
            tokenizer(run.recipe.load_task()).save_pretrained(folder)
            (folder / "anchorbench.json").write_text(card + "\n")
    except SafetensorError as error:
        raise ValueError(f"{out} cannot be written: {error}") from None
    return out


def _name_parent_architecture(config: Path) -> None:
    """Adds our class's parent to the architectures: TransformerLens uses the first it knows, and both have the same modules."""
    content = read_json(config)
    if content["architectures"] == ["AnchorGPTForCausalLM"]:
        content["architectures"].append("OpenAIGPTLMHeadModel")
        config.write_text(json.dumps(content, indent=2) + "\n")


def tokenizer(task: Task) -> Any:
    """A Hugging Face tokenizer that maps `task.text(tokens)` to `tokens`, and any other word to the id `task.vocab_size`."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {token.word: number for number, token in enumerate(task.vocabulary)}
    words.setdefault(UNKNOWN_WORD, len(words))
    word_level = Tokenizer(models.WordLevel(words, unk_token=UNKNOWN_WORD))
    word_level.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=word_level, unk_token=UNKNOWN_WORD, model_max_length=task.seq_len)


def to_transformers(model: GPT) -> Any:
    """Converts a stack of one to a Hugging Face model with the same logits. Raises ValueError if its config has no counterpart."""
    from transformers import GPT2Config, GPT2LMHeadModel, OpenAIGPTConfig, OpenAIGPTLMHeadModel

    from anchorbench.hf import AnchorGPTConfig, AnchorGPTForCausalLM

    shape = model.shape
    if not is_gpt(shape):
        raise ValueError(f"a model of kind {shape.kind!r} has no Hugging Face counterpart and cannot be exported")
    if shape.query_norm_only:
        raise ValueError("a model with query_norm_only has no Hugging Face counterpart and cannot be exported")
    if shape.d_model % shape.n_head or shape.d_head * shape.n_head > shape.d_model:
        raise ValueError(
            f"{shape.n_head} heads of width {shape.d_head} do not fit d_model {shape.d_model}; such a model cannot be exported"
        )
    if shape.norm == "pre" and shape.unembed_bias:
        raise ValueError("a pre-LN model with an output bias has no Hugging Face counterpart and cannot be exported")
    common: dict[str, Any] = {
        "vocab_size": model.vocab_size,
        "n_positions": model.seq_len,
        "n_embd": shape.d_model,
        "n_layer": shape.n_layer,
        "n_head": shape.n_head,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "tie_word_embeddings": False,
        "attn_implementation": "eager",  # other implementations return no attention patterns
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if shape.norm == "pre":
        config = GPT2Config(**common, n_inner=shape.d_ff, activation_function=shape.activation)
        target = GPT2LMHeadModel(config)
        names = ("wte", "wpe")
    else:
        if shape.activation == "relu" and not shape.unembed_bias and shape.d_ff == 4 * shape.d_model:
            target = OpenAIGPTLMHeadModel(OpenAIGPTConfig(**common, afn="relu"))
        else:
            target = AnchorGPTForCausalLM(
                AnchorGPTConfig(**common, n_inner=shape.d_ff, activation_function=shape.activation, unembed_bias=shape.unembed_bias)
            )
        names = ("tokens_embed", "positions_embed")
    target.load_state_dict(_transformers_weights(model, *names), strict=True)
    return target.eval()


def _transformers_weights(model: GPT, token_name: str, position_name: str) -> dict[str, Tensor]:
    shape, width = model.shape, model.shape.d_model // model.shape.n_head

    def pad(x: Tensor, axis: int) -> Tensor:
        """Zero-pads each head along `axis` from d_head to d_model / n_head."""
        parts = x.unflatten(axis, (shape.n_head, shape.d_head))
        room = list(parts.shape)
        room[axis + 1] = width - shape.d_head
        return torch.cat([parts, parts.new_zeros(room)], axis + 1).flatten(axis, axis + 1)

    def bias(linear: Any, size: int) -> Tensor:
        return torch.zeros(size) if linear.bias is None else linear.bias[0]

    scale = math.sqrt(width / shape.d_head)  # the target divides scores by sqrt(width)
    weights = {
        f"transformer.{token_name}.weight": model.token_embedding[0],
        f"transformer.{position_name}.weight": model.position_embedding[0],
    }
    for number, block in enumerate(model.layers):
        inner = shape.n_head * shape.d_head
        at = f"transformer.h.{number}."
        qkv = [(block.query, scale), (block.key, 1.0), (block.value, 1.0)]
        weights |= {
            at + "ln_1.weight": block.norm_1.weight[0],
            at + "ln_1.bias": block.norm_1.bias[0],
            at + "ln_2.weight": block.norm_2.weight[0],
            at + "ln_2.bias": block.norm_2.bias[0],
            at + "attn.c_attn.weight": torch.cat([pad(linear.weight[0] * factor, 1) for linear, factor in qkv], 1),
            at + "attn.c_attn.bias": torch.cat([pad(bias(linear, inner) * factor, 0) for linear, factor in qkv]),
            at + "attn.c_proj.weight": pad(block.output.weight[0], 0),
            at + "attn.c_proj.bias": bias(block.output, shape.d_model),
            at + "mlp.c_fc.weight": block.ff_in.weight[0],
            at + "mlp.c_fc.bias": bias(block.ff_in, shape.d_ff),
            at + "mlp.c_proj.weight": block.ff_out.weight[0],
            at + "mlp.c_proj.bias": bias(block.ff_out, shape.d_model),
        }
    if model.final_norm is not None:
        weights |= {"transformer.ln_f.weight": model.final_norm.weight[0], "transformer.ln_f.bias": model.final_norm.bias[0]}
    weights["lm_head.weight"] = model.unembedding.weight[0].T
    if model.unembedding.bias is not None:
        weights["lm_head.bias"] = model.unembedding.bias[0]
    return {name: tensor.detach().clone() for name, tensor in weights.items()}
