"""Loads checkpoints of any origin, and exports a trained member as a Hugging Face checkpoint.

Pre-LN members become plain GPT-2, post-LN ones plain OpenAI GPT (the first GPT, which is post-LN) or, with exact GELU, an output
bias or d_ff other than 4 d_model, our subclass of it, which `import anchorbench.hf` registers with transformers. Heads narrower
than d_model / n_head are zero-padded, which leaves every logit unchanged. A word-level tokenizer of the task's vocabulary is
saved with the weights.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from anchorbench.files import new_folder, read_json
from anchorbench.hub.checkpoint import CONFIG, fetch, load_checkpoint, plain_session
from anchorbench.hub.model_card import model_card
from anchorbench.model.gpt import GPT, is_gpt, new_model
from anchorbench.sweeps.run_folder import DamagedRunError, Run, is_run, read_run
from anchorbench.task import Task

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
UNKNOWN_WORD = "[UNK]"
"""TransformerLens requires an unknown word of every tokenizer; this one's id is outside the model's vocabulary."""


def load_model(model: object) -> Run | GPT | nn.Module:
    """Resolves anything that `anchorbench.inspect.open_model` accepts to a run, a stack of one, or a module.

    Raises ValueError as it does.
    """
    if isinstance(model, str | Path):
        folder = Path(model)
        if (folder / CONFIG).exists():
            return load_checkpoint(folder)
        if is_run(folder):
            return read_run(folder)
        if folder.is_dir():
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


def with_own_task(model: object, task: Task) -> tuple[object, Task]:
    """The model (loaded if it is a run folder) and the task to evaluate it on. A run trained on the task's variant uses its own
    task, since the held-out groups may rotate over seeds.
    """
    if isinstance(model, str | Path) and is_run(Path(model)):
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


def export(run: Run, out: Path, step: int | None = None) -> Path:
    """Writes the run's model to the folder `out` as a Hugging Face checkpoint with the same logits, for `from_pretrained`.

    Raises ValueError with one sentence if `out` is a non-empty folder or the model config has no Hugging Face counterpart.
    """
    about = json.dumps(
        {"run_id": run.result.run_id, "verdict": run.result.verdict, "recipe": run.recipe.model_dump(mode="json")}, indent=1
    )
    try:
        with new_folder(out, marker="config.json") as folder:
            model = to_transformers(load_member(run, step))
            with plain_session():
                model.save_pretrained(folder)
            _name_parent_architecture(folder / "config.json")
            tokenizer(run.recipe.load_task()).save_pretrained(folder)
            (folder / "anchorbench.json").write_text(about + "\n")
            (folder / "README.md").write_text(model_card(run, step))
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
    words = {token.word: number for number, token in enumerate(task.vocabulary)}
    words.setdefault(UNKNOWN_WORD, len(words))
    return word_level(words, model_max_length=task.seq_len)


def word_level(words: dict[str, int], **options: Any) -> Any:
    """A Hugging Face tokenizer of text whose words are separated by spaces; UNKNOWN_WORD must be one of `words`."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(words, unk_token=UNKNOWN_WORD))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=UNKNOWN_WORD, **options)


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
