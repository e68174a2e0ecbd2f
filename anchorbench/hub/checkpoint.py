"""Loads untrusted checkpoints: config.json and safetensors become a Hugging Face causal language model in fp32.

No code in the folder is executed, and transformers never sees the folder: this file alone decides what is read. The headers of
the weight files are checked against the config on the meta device, so nothing is allocated for a model whose weights are absent.
"""

import math
import os
import re
from collections.abc import Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from importlib import import_module
from logging import CRITICAL
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from anchorbench.files import read_json, require_plain, visible

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
MAX_CONFIG_BYTES, MAX_INDEX_BYTES = 2**20, 2**24
MAX_LAYERS = 1000
"""Layers that a config may always ask for, even if the weights have fewer tensors: transformers builds lists of that length."""
MAX_BUFFER_BYTES = 2**28
"""Maximum size of the buffers (masks, positions) that a model computes in addition to its weights."""
PARTS_PER_TENSOR, SPARE_PARTS = 20, 1000
"""Maximum number of modules and parameters per tensor in the weights, plus a constant allowance."""
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
PLAIN_NAME = re.compile(r"[\w-][\w.-]*\.safetensors")
NOT_FOR_US = (
    "auto_map",
    "custom_pipelines",
    "attn_implementation",
    "experts_implementation",
    "fusion_config",
    "distributed_config",
    "transformers_weights",
    "dtype",
    "torch_dtype",
    "name_or_path",
    "commit_hash",
)
"""Fields of config.json, with or without underscores, that point to code, kernels or files, or control loading: dropped."""
BUFFER = re.compile(r"(^|\.)(masked_bias|rotary_emb\.inv_freq|position_ids)$")
MASK = re.compile(r"(^|\.)(attn|attention)\.bias$")
"""Computed buffers that older checkpoints also saved; `attn.bias` is a causal mask if it has four axes."""


@contextmanager
def plain_session(device: torch.device | None = None) -> Generator[None]:
    """Runs in fp32, on the CPU by default, with transformers silenced, regardless of the session's default dtype, default device,
    autocast and verbosity. All of these are restored afterwards.
    """
    from transformers.utils import logging

    dtype, bar, verbosity = torch.get_default_dtype(), logging.is_progress_bar_enabled(), logging.get_verbosity()
    with ExitStack() as stack:
        stack.enter_context(torch.device("cpu"))
        for kind in {"cpu", "cpu" if device is None else device.type}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        torch.set_default_dtype(torch.float32)
        logging.set_verbosity(CRITICAL)
        logging.disable_progress_bar()
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            logging.set_verbosity(verbosity)
            if bar:
                logging.enable_progress_bar()


def load_checkpoint(folder: Path, name: str | None = None) -> nn.Module:
    """Loads the causal language model in `folder`, in fp32 on the CPU; `name` identifies it in error messages.

    Raises ValueError with one sentence if config.json or the weights are damaged, do not match, or are not such a model.
    """
    name = name or str(folder)
    content = _read_object(folder, CONFIG, MAX_CONFIG_BYTES)
    files = _weight_files(folder)
    headers: dict[str, Tensor] = {}
    for file, wanted in files.items():
        header = _read_header(folder, file)
        if absent := wanted - header.keys():
            raise ValueError(f"{folder / INDEX} says that {file} holds {visible(min(absent), 200)}, but it does not")
        if twice := headers.keys() & header.keys():
            raise ValueError(f"{folder} holds the tensor {visible(min(twice), 200)} twice")
        headers |= header
    with plain_session():
        config = _configuration(content, len(headers), name)
        _require_match(config, headers, name)
        weights: dict[str, Tensor] = {}
        for file in files:
            weights |= _load_file(folder, file)
        model, _ = _build(config, weights, name)
    return model.eval()


def fetch(hub_id: str) -> Path:
    """Downloads config.json and the safetensors of a model on the Hugging Face Hub, and returns their folder in the cache.

    Raises ValueError with one sentence if the model lacks them or the Hub cannot be reached.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    def get(file: str, revision: str | None = None) -> Path:
        return Path(hf_hub_download(hub_id, file, revision=revision))

    try:
        with plain_session():
            folder = get(CONFIG).parent
            try:
                get(WEIGHTS, folder.name)
            except LocalEntryNotFoundError:
                raise
            except EntryNotFoundError:
                get(INDEX, folder.name)
                for file in _weight_files(folder):
                    get(file, folder.name)
    except LocalEntryNotFoundError:
        raise ValueError(f"{hub_id} is not in the local cache, and the Hugging Face Hub cannot be reached") from None
    except EntryNotFoundError:
        raise ValueError(f"{hub_id} has no {CONFIG} and safetensors weights on the Hugging Face Hub") from None
    except HFValidationError:
        raise ValueError(f"{hub_id} is not the name of a model on the Hugging Face Hub") from None
    except (HfHubHTTPError, OSError) as error:
        raise ValueError(f"{hub_id} cannot be fetched from the Hugging Face Hub ({type(error).__name__})") from error
    return folder


def _inside(folder: Path, name: str) -> Path:
    """Path of the regular file `name` in `folder`; symlinks may only lead to the blobs of a Hub cache, nowhere else outside it."""
    path, root = folder / name, folder.resolve()
    allowed = [root, root.parent.parent / "blobs"] if root.parent.name == "snapshots" else [root]
    if not any(path.resolve().is_relative_to(place) for place in allowed):
        raise ValueError(f"{path} is a link that leads out of its folder; allowed: files inside it")
    require_plain(path)
    return path


def _read_object(folder: Path, name: str, most: int) -> dict[str, Any]:
    content = read_json(_inside(folder, name), most=most)
    if not isinstance(content, dict):
        raise ValueError(f"{folder / name} is not a JSON object")
    return cast("dict[str, Any]", content)


def _weight_files(folder: Path) -> dict[str, set[str]]:
    """Names of the weight files, each with the tensors that the index lists for it."""
    if os.path.lexists(folder / WEIGHTS):
        return {WEIGHTS: set()}
    if not os.path.lexists(folder / INDEX):
        raise ValueError(f"{folder} holds no {WEIGHTS}; allowed: weights as safetensors only")
    content = _read_object(folder, INDEX, MAX_INDEX_BYTES).get("weight_map")
    files: dict[str, set[str]] = {}
    for tensor, file in cast("dict[str, object]", content).items() if isinstance(content, dict) else ():
        if not isinstance(file, str) or not PLAIN_NAME.fullmatch(file):
            raise ValueError(
                f"{folder / INDEX} names the file {visible(repr(file), 100)}; allowed: names of safetensors files beside it"
            )
        files.setdefault(file, set()).add(tensor)
    if not files:
        raise ValueError(f"{folder / INDEX} names no files")
    return files


def _read_header(folder: Path, name: str) -> dict[str, Tensor]:
    """The tensors of a file on the meta device: names, shapes and dtypes, no data."""
    from safetensors import SafetensorError, safe_open

    found: dict[str, Tensor] = {}
    try:
        with cast(Any, safe_open)(_inside(folder, name), "pt") as file:
            for key in list(file.keys()):
                part = file.get_slice(key)
                kind = part.get_dtype()
                if kind not in DTYPES and not (BUFFER.search(key) or MASK.search(key)):
                    raise ValueError(f"{folder / name} stores {visible(key, 200)} as {kind}; allowed: {', '.join(DTYPES)}")
                found[key] = torch.empty(part.get_shape(), dtype=DTYPES.get(kind, torch.uint8), device="meta")
    except (SafetensorError, OSError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{folder / name} is not a complete safetensors file") from error
    return found


def _configuration(content: dict[str, Any], tensors: int, name: str) -> Any:
    """Builds a config of one of transformers' own classes.

    Raises ValueError for any other class, and for more layers than the weights fill.
    """
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    import_module("anchorbench.hf")  # registers our architecture
    kind = content.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise ValueError(f"{name} is a model of type {visible(repr(kind), 100)}, which transformers does not know")
    if content.get("quantization_config"):
        raise ValueError(f"{name} is quantized; allowed: weights in {', '.join(DTYPES)}")
    _require_layers(content, max(tensors, MAX_LAYERS), name)
    try:
        config = cast(Any, CONFIG_MAPPING[kind]).from_dict(_without_instructions(content))
    except Exception as error:
        field = re.search(r"field '(\w+)'", str(error))
        which = f" (its field {field[1]!r})" if field else ""
        raise ValueError(f"{name} has a {CONFIG} that is not a valid {kind} config{which}") from error
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"{name} is a {kind} model; allowed: causal language models")
    return config


def _without_instructions(value: Any) -> Any:
    """`value` without the fields in NOT_FOR_US, at any depth."""
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return {key: _without_instructions(inner) for key, inner in items if not key.lstrip("_").startswith(NOT_FOR_US)}
    return [_without_instructions(inner) for inner in cast("list[Any]", value)] if isinstance(value, list) else value


def _require_layers(content: dict[str, Any], most: int, name: str) -> None:
    """Raises ValueError if the config asks, at any depth, for more than `most` layers."""

    def largest(value: Any) -> int:
        if isinstance(value, dict | list):
            inner = cast("dict[str, Any]", value).values() if isinstance(value, dict) else cast("list[Any]", value)
            return max(map(largest, inner), default=0)
        return int(value) if isinstance(value, int | float) and math.isfinite(value) else 0

    for key, value in content.items():
        if isinstance(value, dict):
            _require_layers(cast("dict[str, Any]", value), most, name)
        elif ("layer" in key or key == "attention_types") and (asked := largest(value)) > most:
            raise ValueError(f"{name} has {key} {asked} in its {CONFIG}, more than its weights can fill")


def _require_match(config: Any, headers: dict[str, Tensor], name: str) -> None:
    """Raises ValueError naming the first tensor that is missing, unexpected, or of the wrong shape. Allocates nothing."""
    with _at_most(SPARE_PARTS + PARTS_PER_TENSOR * len(headers), name):
        model, found = _build(config, headers, name)
    expected = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
    shapes = {key: list(tensor.shape) for key, tensor in headers.items()}

    def listed(keys: Iterable[str], shapes: dict[str, list[int]]) -> str:
        first, *rest = sorted(keys)
        return f"{visible(first, 200)} {shapes.get(first, '')}".rstrip() + (f" (and {len(rest)} more)" if rest else "")

    if mismatched := sorted(found["mismatched_keys"]):
        key, has, asks = mismatched[0]
        raise ValueError(f"{name} holds {visible(key, 200)} of shape {list(has)}, but its {CONFIG} asks for {list(asks)}")
    if missing := found["missing_keys"]:  # transformers would initialize them randomly
        raise ValueError(f"{name} is incomplete: its weights lack {listed(missing, expected)}")
    surprising = [key for key in found["unexpected_keys"] if not (BUFFER.search(key) or _is_mask(key, headers))]
    if surprising:
        raise ValueError(f"{name} holds weights that its {CONFIG} does not describe: {listed(surprising, shapes)}")
    computed = sum(buffer.nbytes for buffer in model.buffers())
    if computed > MAX_BUFFER_BYTES + sum(tensor.nbytes for tensor in headers.values()):
        raise ValueError(
            f"{name} asks for {computed / 2**30:.1f} GiB of masks or positions in its {CONFIG}, far beyond its weights"
        )


def _is_mask(key: str, headers: Mapping[str, Tensor]) -> bool:
    """Whether an unexpected tensor is a causal mask, as stored in older GPT-2 and GPT-NeoX checkpoints."""
    return bool(MASK.search(key)) and key in headers and headers[key].ndim == 4


class _TooManyPartsError(ValueError):
    pass


@contextmanager
def _at_most(parts: int, name: str) -> Generator[None]:
    """Aborts model construction as soon as the model has more than `parts` modules and parameters."""
    from torch.nn.modules import module

    count = 0

    def register(*_: object) -> None:
        nonlocal count
        count += 1
        if count > parts:
            raise _TooManyPartsError(f"{name} has a {CONFIG} that asks for far more layers than its weights hold")

    hooks = [
        module.register_module_module_registration_hook(register),
        module.register_module_parameter_registration_hook(register),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _build(config: Any, weights: dict[str, Tensor], name: str) -> tuple[nn.Module, dict[str, Any]]:
    """The model with `weights` assigned where they fit, on their device, and transformers' report of what did not fit."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    kind = cast(Any, MODEL_FOR_CAUSAL_LM_MAPPING)[type(config)]
    if isinstance(kind, tuple):  # several classes share this config
        known = {each.__name__: each for each in kind}
        kind = next((known[each] for each in config.architectures or () if each in known), kind[0])
    text = config.get_text_config()
    if isinstance(text, kind.config_class):
        config = text  # for a vision-language model: its text model
    on_meta = any(tensor.is_meta for tensor in weights.values())
    try:
        return kind.from_pretrained(
            None,
            config=config,
            state_dict=weights,
            dtype=torch.float32,
            attn_implementation="eager",
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **({"device_map": {"": "meta"}} if on_meta else {}),
        )
    except _TooManyPartsError:
        raise
    except Exception as error:
        raise ValueError(f"{name} cannot be built as a {config.model_type} model from its {CONFIG} and weights") from error


def _load_file(folder: Path, name: str) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(_inside(folder, name))
