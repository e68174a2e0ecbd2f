"""Dataset cards: the YAML header that `load_dataset` reads, and the text for human readers."""

import re
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from anchorbench import __version__
from anchorbench.catalogue import ARXIV, by_name, docstring, facts, link
from anchorbench.files import Plain
from anchorbench.recipe import MAX_EXAMPLES
from anchorbench.task import SPLITS, DrawSeed, Split, Task, full_name


class Manifest(Plain):
    """Metadata stored in the folder of a dataset config."""

    anchorbench: str
    """The anchorbench version that wrote the dataset."""
    task: str
    variant: str
    version: int = Field(ge=1, le=1_000_000)
    fingerprint: str
    seed: DrawSeed
    examples: dict[Split, Annotated[int, Field(ge=1, le=MAX_EXAMPLES)]]


@dataclass(frozen=True)
class Built:
    """A dataset config as written to disk."""

    task: Task
    manifest: Manifest
    arrow_bytes: dict[Split, int]
    """Size in memory, which `datasets` reports in the card."""
    parquet_bytes: int

    @property
    def rows(self) -> int:
        return sum(self.manifest.examples.values())


def data_files(manifest: Manifest) -> list[dict[str, str]]:
    """The split files of a config, as listed in the card for `load_dataset`."""
    folder = full_name(manifest.task, manifest.variant)
    return [{"split": split, "path": f"{folder}/{split}.parquet"} for split in manifest.examples]


def features(task: Task) -> Any:
    """The columns of a task's dataset, as `datasets` features."""
    from datasets import Features, List, Value

    example = task.sample("train", 1, 0)
    number = Value("int32")
    columns: dict[str, Any] = {
        "text": Value("string"),
        "tokens": List(number, length=task.seq_len),
        "label": number,
        "group": Value("string"),
        "key": number,
        "position": number,
        **{f"foil_{name}": number for name in example.foils},
    }
    if example.target is not None:
        columns["target"] = List(Value("float64"), length=task.vocab_size)
    return Features(columns)


MEANINGS = {
    "text": "the sequence as words, separated by single spaces",
    "tokens": "the same sequence as token ids, of fixed length; the tokenizer maps `text` to exactly these",
    "label": "the token id of the correct answer, which follows the last token",
    "group": "the group of examples that is trained or held out as a whole, for instance an anchor pair",
    "key": "the token that the rule is applied to, or null",
    "position": "the position of the key, counted from 0, or null",
    "foil_inferential": "the answer by composing the rule, even where a different one is trained, or null",
    "foil_symmetric": "the answer of a model that ignores the order of the anchors, where it differs, else null",
    "foil_shortcut": "the answer of a model that takes the shortcut that the task describes, where it differs, else null",
    "foil_other_set": "the answer by the rule set of the other pairs, in held-out groups, else null",
    "foil_swapped": "the answer with the two anchors in the opposite order, where it differs, else null",
    "target": "the probability of each token id, where the answer is random; `label` is one sample",
}


def card(command: str, built: list[Built], *, one_tokenizer: bool) -> str:
    """README.md of the dataset written by `command`."""
    first = built[0].task
    families = list(by_name(b.task for b in built))
    title = "anchorbench: " + (first.name if len(families) == 1 else "all tasks")
    example = first.full_name
    tokenizer_at = "PATH" if one_tokenizer else f'PATH, subfolder="{example}"'
    columns = {name: feature for b in built for name, feature in features(b.task).items()}
    sizes = [
        [
            b.task.full_name,
            *(f"{b.manifest.examples[split]:,}" if split in b.manifest.examples else "-" for split in SPLITS),
            str(b.task.seq_len),
            str(b.task.vocab_size),
            f"{b.task.chance:.3g}",
            f"`{b.manifest.fingerprint}`",
        ]
        for b in built
    ]
    sections = "\n\n".join(
        f"## {v[0].name}\n\n{v[0].description}\n\n```text\n" + "\n\n".join([docstring(v[0]), *facts(v)]) + "\n```" for v in families
    )
    papers = sorted({paper for b in built for paper in re.findall(ARXIV, b.task.paper)})
    return f"""---
{_header(title, built)}
---

# {title}

Exactly known functions of token sequences, built so that a model that infers the rule and one that memorizes the table differ on
inputs that are never trained on: split `iid` holds unseen inputs of trained groups, `ood` (where a task has it) inputs of held-out
groups.

```python
from datasets import load_dataset
from transformers import AutoTokenizer

PATH = "..."  # this folder, or its name on the Hub
data = load_dataset(PATH, "{example}", split="{first.splits[-1]}")
tokenizer = AutoTokenizer.from_pretrained({tokenizer_at})
assert tokenizer(data[0]["text"])["input_ids"] == data[0]["tokens"]
```

{_table(["column", "type", "meaning"], [[f"`{name}`", _type(columns[name]), _meaning(name)] for name in columns])}

{_table(["config", *SPLITS, "tokens", "vocabulary", "chance", "fingerprint"], sizes)}

## How to train on it

- Train on the split `train` alone. The model reads `tokens` and predicts `label` at the last position.
- Trainers that shift labels themselves, such as Hugging Face's `Trainer`, get `[*tokens, label]` as input, and as labels -100
  everywhere but at the end. The model then needs room for one token more than the table's `tokens`.
- All sequences of a config have the same length. There is no BOS, EOS or padding token, and the vocabulary needs no id beyond the
  table's `vocabulary`.
- `chance` is the accuracy of guessing uniformly among the possible answers; on `iid` it tells whether a model has learned anything.
- An answer to an `ood` example is composed if it equals `foil_inferential`. A model composes if most of its answers are, and has
  memorized if few are although it is right on `iid`: `anchorbench classify DIR --task CONFIG` gives the verdict, with its interval.

## How it was generated

    anchorbench {command}

with anchorbench {__version__}, NumPy {np.__version__} and PyArrow {pa.__version__}; the same versions give the same bytes. An
example can occur twice in a split, but never in two splits: a sequence determines its split. The fingerprint is that of the task's
name, version and configuration. `anchorbench data verify PATH` recomputes every label, foil, group and split, independently of the
code that generated them.

{sections}

## License and citation

Apache-2.0. Please cite the paper that a task comes from ({", ".join(map(link, papers))}) and

```bibtex
@software{{anchorbench,
  title = {{anchorbench: inference or memorization in small transformers}},
  author = {{{{The anchorbench developers}}}},
  version = {{{__version__}}},
  license = {{Apache-2.0}}
}}
```
"""


def _header(title: str, built: list[Built]) -> str:
    from datasets import SplitDict, SplitInfo
    from datasets.info import DatasetInfo, DatasetInfosDict
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCardData

    infos, configs = DatasetInfosDict(), MetadataConfigs()
    for b in built:
        name = b.task.full_name
        splits = {s: SplitInfo(s, num_bytes=b.arrow_bytes[s], num_examples=n) for s, n in b.manifest.examples.items()}
        infos[name] = DatasetInfo(
            features=features(b.task),
            splits=SplitDict(splits),
            download_size=b.parquet_bytes,
            dataset_size=sum(b.arrow_bytes.values()),
            config_name=name,
        )
        configs[name] = {"data_files": data_files(b.manifest)}
    header = DatasetCardData(license="apache-2.0", pretty_name=title, tags=["anchorbench", "interpretability", "synthetic"])
    configs.to_dataset_card_data(header)
    infos.to_dataset_card_data(header)
    return header.to_yaml()


def _table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, ["---"] * len(header), *rows])


def _type(feature: Any) -> str:
    return feature.dtype if hasattr(feature, "dtype") and feature.dtype != "list" else f"list of {feature.feature.dtype}"


def _meaning(name: str) -> str:
    return MEANINGS.get(name, "another competing answer, explained with its task, or null")
