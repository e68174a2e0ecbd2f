"""Model cards: what a run's checkpoint is, what it answers, and how to ask it."""

from typing import Any

import yaml

from anchorbench import __version__
from anchorbench.parts import changes
from anchorbench.sweeps.run_folder import Run
from anchorbench.verdict import Share

MEANINGS = {
    "accuracy_train": "accuracy on training examples",
    "accuracy_iid": "accuracy on trained groups, at keys and positions that were not trained",
    "composes": "held-out groups: share of answers that compose",
    "ordered": "mirror of a trained exception: share of answers that compose",
    "symmetric": "mirror of a trained exception: share of answers that repeat the exception",
    "commutes": "held-out pairs: share whose two orders get the same answer",
}


def model_card(run: Run, step: int | None = None) -> str:
    """README.md of a run's checkpoint, at the end of its training or at an intermediate step."""
    task, recipe, result = run.recipe.load_task(), run.recipe, run.result
    title = f"{task.full_name}, gamma {recipe.init.gamma:g}, {recipe.model.norm}-LN, seed {recipe.seed}"
    examples = task.sample(task.splits[-1], 1, seed=0)
    measured = [(name, words, getattr(result, name)) for name, words in MEANINGS.items() if getattr(result, name) is not None]
    rows = "\n".join(f"| {words} | {share.value:.3f} | {_interval(share)} | {share.n} |" for _, words, share in measured)
    verdict = f"**{result.verdict}**" if result.verdict else "none, as nothing is held out"
    when = (
        ""
        if step is None
        else f" These are the weights at step {step:,} of {recipe.steps:,}; verdict and shares are those of the end."
    )
    fields = yaml.safe_dump(changes(recipe), sort_keys=False).strip()
    return f"""---
{_header(run, title, {name: share.value for name, _, share in measured if step is None})}
---

# {title}

A small transformer trained by anchorbench on the synthetic task `{task.full_name}`, to tell
whether it infers the rule or memorizes the table. Its verdict: {verdict}.{when}

{task.description}

| measured on fresh examples | share | 95% interval | n |
|---|---|---|---|
{rows}

## How to ask it

```python
import anchorbench.hf  # needed for post-LN models with GELU only
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PATH = "..."  # this folder, or its name on the Hub
tokenizer = AutoTokenizer.from_pretrained(PATH)
model = AutoModelForCausalLM.from_pretrained(PATH)
tokens = tokenizer("{task.text(examples.tokens)[0]}", return_tensors="pt")["input_ids"]
with torch.no_grad():
    answer = int(model(tokens).logits[0, -1].argmax())
print(tokenizer.decode(answer))  # the rule gives {task.vocabulary[int(examples.label[0])].word}
```

`anchorbench classify PATH` evaluates it again. It reads sequences of {task.seq_len} tokens of this task and nothing else: it is no
language model.

## How it was trained

Run `{result.run_id}` of anchorbench {__version__}, on {result.machines[-1][1].cpu}, gradients by {result.machines[-1][1].gradient}.
The recipe's fields that differ from the defaults; `anchorbench.json` has all of them:

```yaml
{fields}
```
"""


def _interval(share: Share) -> str:
    low, high = share.interval
    return f"{low:.3f} to {high:.3f}"


def _header(run: Run, title: str, shares: dict[str, float]) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    about: dict[str, Any] = {"task_type": "text-generation", "dataset_type": "anchorbench", "metric_type": "accuracy"}
    results = [
        EvalResult(**about, dataset_name=run.recipe.load_task().full_name, metric_name=name, metric_value=round(value, 4))
        for name, value in shares.items()
    ]
    header = ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        tags=["anchorbench", "interpretability", "synthetic"],
        model_name=title if results else None,
        eval_results=results or None,
    )
    return header.to_yaml()
