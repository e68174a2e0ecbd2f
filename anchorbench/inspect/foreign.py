"""Checkpoints of other architectures, trained on a task by Hugging Face's Trainer: the forecast is graded on them as well."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from anchorbench.files import new_folder
from anchorbench.task import Task

WIDTH, LAYERS, HEADS = 48, 2, 2
BATCH, STEPS, RATE = 64, 2000, 3e-3
SIZE = 50_000
"""Training sequences."""


def _gpt2(vocab_size: int, length: int, *, tied: bool) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=length,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
        tie_word_embeddings=tied,
    )
    return GPT2LMHeadModel(config)


def _rotary(kind: str, vocab_size: int, length: int) -> Any:
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        vocab_size=vocab_size,
        max_position_embeddings=length,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        bos_token_id=None,
        eos_token_id=None,
    )
    return getattr(transformers, f"{kind}ForCausalLM")(config)


KINDS: Mapping[str, Callable[[int, int], Any]] = {
    "gpt2-tied": lambda vocab_size, length: _gpt2(vocab_size, length, tied=True),
    "gpt2-untied": lambda vocab_size, length: _gpt2(vocab_size, length, tied=False),
    "llama": lambda vocab_size, length: _rotary("Llama", vocab_size, length),
    "neox": lambda vocab_size, length: _rotary("GPTNeoX", vocab_size, length),
}
"""Name -> (vocabulary, length) -> a model with fresh weights."""


class _Sequences(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Sequences with the label as their last token, the only one that has a loss."""

    def __init__(self, tokens: Int[Tensor, "n seq"], label: Int[Tensor, " n"]) -> None:
        self.tokens = torch.cat([tokens, label[:, None]], 1)
        self.labels = torch.cat([torch.full_like(tokens, -100), label[:, None]], 1)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {"input_ids": self.tokens[row], "labels": self.labels[row]}


def train_foreign(kind: str, task: Task, seed: int, folder: Path, steps: int = STEPS) -> Path:
    """Trains a model of this kind by Trainer, and saves it to `folder` as a checkpoint, unless it is there already."""
    if (folder / "config.json").exists():
        return folder
    from transformers import Trainer, TrainingArguments, set_seed

    set_seed(seed)
    model = KINDS[kind](task.vocab_size, task.seq_len + 1)
    examples = task.sample("train", SIZE, seed)
    data = _Sequences(torch.from_numpy(examples.tokens), torch.from_numpy(examples.label))
    with new_folder(folder, marker="config.json") as temporary:
        how = TrainingArguments(
            output_dir=str(temporary),
            max_steps=steps,
            per_device_train_batch_size=BATCH,
            learning_rate=RATE,
            lr_scheduler_type="cosine",
            warmup_steps=100,
            seed=seed,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            logging_strategy="no",
            use_cpu=True,
        )
        Trainer(model=model, args=how, train_dataset=data).train()
        model.save_pretrained(temporary)
    return folder
