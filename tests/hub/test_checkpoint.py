"""Checkpoints as a stranger might make them: nothing in them runs, nothing outside is read, and what is wrong is one sentence."""

import builtins
import io
import json
import os
import re
import shutil
import struct
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from conftest import random_gpt
from safetensors.torch import load_file, save_file

from anchorbench import classify, load_task
from anchorbench.hub.checkpoint import load_checkpoint
from anchorbench.hub.models import load_model, to_transformers
from anchorbench.inspect.open_model import open_model
from anchorbench.probes import commutativity

TASK = load_task("composite")
TOKENS = torch.from_numpy(TASK.sample("iid", 4, 0).tokens)
SECONDS = 2.0
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Sound checkpoints to copy and damage."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("GPT2", "Llama", "GPTNeo")}
    for name, folder in folders.items():
        zoo.make(name).save_pretrained(folder)
    return folders


@pytest.fixture
def folder(saved: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved["GPT2"], tmp_path / "model"))


def change(folder: Path, **fields: Any) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | fields))


def change_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    save_file(edit(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})


def refusal(folder: Path) -> str:
    """The one sentence that refuses the folder, quickly."""
    start = time.process_time()
    with pytest.raises(ValueError, match=re.escape(str(folder))) as refused:
        load_checkpoint(folder)
    assert time.process_time() - start < SECONDS
    sentence = str(refused.value)
    assert "\n" not in sentence
    assert len(sentence) < 500
    for word in ("trust_remote_code", "above report", "pip install", "Traceback"):
        assert word not in sentence
    return sentence


# ------------------------------------------------------------------------------------------------ nothing runs

CODE = """
from pathlib import Path
Path({marker!r}).write_text("it ran")
from transformers import PreTrainedConfig, GPT2LMHeadModel
class EvilConfig(PreTrainedConfig): model_type = "evil"
class EvilModel(GPT2LMHeadModel): config_class = EvilConfig
class EvilTokenizer: pass
def generate(*args, **kwargs): pass
"""
AUTO_MAP = {"AutoConfig": "evil.EvilConfig", "AutoModelForCausalLM": "evil.EvilModel", "AutoModel": "evil.EvilModel"}
TRAPS: dict[str, dict[str, Any]] = {
    "unknown type with code": {"model_type": "evil", "auto_map": AUTO_MAP},
    "known type with code": {"auto_map": AUTO_MAP},
    "code in a sub-configuration": {"text_config": {"model_type": "evil", "auto_map": AUTO_MAP}},
    "code of another repository": {"model_type": "evil", "auto_map": {"AutoConfig": "evil/repo--evil.EvilConfig"}},
    "our own type with code": {"model_type": "anchor-gpt", "auto_map": AUTO_MAP},
    "no type but an architecture": {"model_type": None, "architectures": ["EvilModel"], "auto_map": AUTO_MAP},
    "kernels from the Hub": {"_attn_implementation": "evil/kernels", "_experts_implementation": "evil/kernels"},
    "custom generation": {"custom_generate": "evil", "custom_pipelines": {"text": {"impl": "evil.EvilModel"}}},
    "fusions": {"fusion_config": {"evil": True}},
    "adapters": {"base_model_name_or_path": "evil", "transformers_weights": "../evil.bin"},
}


@pytest.mark.parametrize("name", TRAPS)
def test_nothing_in_the_folder_runs(folder: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "marker"
    for file in ("evil.py", "modeling_gpt2.py", "setup.py", "sitecustomize.py", "__init__.py", "custom_generate/generate.py"):
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(CODE.format(marker=str(marker)))
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["evil.EvilTokenizer", None]}}))
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "evil", "auto_mapping": AUTO_MAP}))
    (folder / "generation_config.json").write_text(json.dumps({"custom_generate": "evil"}))
    change(folder, **TRAPS[name])
    asked: list[str] = []
    monkeypatch.setattr(builtins, "input", lambda prompt="": asked.append(prompt) or "y")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 10))
    monkeypatch.chdir(folder)
    if TRAPS[name].get("model_type", "gpt2") == "gpt2" and "text_config" not in TRAPS[name]:
        opened = open_model(str(folder))  # what is sound of it is read
        assert opened.answers(TOKENS.numpy()).shape == (1, len(TOKENS))
        assert opened.n_layer == 2
    else:
        try:
            open_model(str(folder))
        except ValueError as sentence:
            assert "trust" not in str(sentence)
    assert not marker.exists()
    assert asked == []


# ------------------------------------------------------------------------------------------------ nothing outside is read

NAMES = [
    "../outside.safetensors",
    "/outside.safetensors",
    "sub/../../outside.safetensors",
    "..\\outside.safetensors",
    "model.bin",
    "pytorch_model.bin",
    "model.safetensors.bin",
    "model.pkl",
    ".safetensors",
    "-.pt",
    "",
    ".",
    "model\x00.safetensors",
    "model\n.safetensors",
    "http://example.org/model.safetensors",
    None,
    3,
    ["model.safetensors"],
    {"a": 1},
]


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_an_index_names_safetensors_beside_it_and_nothing_else(folder: Path, name: object) -> None:
    shutil.copy(folder / WEIGHTS, folder.parent / "outside.safetensors")
    (folder / WEIGHTS).rename(folder / "part.safetensors")
    tensors = list(load_file(folder / "part.safetensors"))
    (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(tensors, "part.safetensors")}))
    load_checkpoint(folder)
    (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(tensors, "part.safetensors") | {tensors[-1]: name}}))
    assert "names the file" in refusal(folder)


INDICES = {
    "no object": [],
    "no map": {"metadata": {}},
    "map is a list": {"weight_map": ["part.safetensors"]},
    "empty map": {"weight_map": {}},
    "file that is missing": {"weight_map": {"a": "lost.safetensors"}},
    "tensor that the file lacks": {"weight_map": {"transformer.h.7.ln_1.bias": "part.safetensors"}},
}


@pytest.mark.parametrize("name", INDICES)
def test_a_damaged_index_is_refused(folder: Path, name: str) -> None:
    (folder / WEIGHTS).rename(folder / "part.safetensors")
    (folder / INDEX).write_text(json.dumps(INDICES[name]))
    assert str(folder) in refusal(folder)


def test_shards_are_put_together_and_a_tensor_stands_once(folder: Path) -> None:
    whole = load_checkpoint(folder)(TOKENS).logits
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(weights)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, keys in parts.items():
        save_file({key: weights[key] for key in keys}, folder / file)
    (folder / INDEX).write_text(json.dumps({"weight_map": {key: file for file, keys in parts.items() for key in keys}}))
    assert torch.equal(load_checkpoint(folder)(TOKENS).logits, whole)
    save_file({key: weights[key] for key in names}, folder / "b.safetensors")
    assert "twice" in refusal(folder)


@pytest.mark.parametrize("file", ["config.json", WEIGHTS, INDEX])
@pytest.mark.parametrize("kind", ["link outside", "dangling link", "pipe", "folder", "device"])
def test_only_plain_files_inside_the_folder_are_read(folder: Path, tmp_path: Path, file: str, kind: str) -> None:
    if file == INDEX:
        (folder / WEIGHTS).rename(folder / "part.safetensors")
        content = json.dumps({"weight_map": dict.fromkeys(load_file(folder / "part.safetensors"), "part.safetensors")})
        (folder / INDEX).write_text(content)
    outside = (folder / file).rename(tmp_path / "outside")
    if kind == "link outside":
        (folder / file).symlink_to(outside)
    elif kind == "dangling link":
        (folder / file).symlink_to(folder / "nothing")
    elif kind == "pipe":
        os.mkfifo(folder / file)
    elif kind == "folder":
        (folder / file).mkdir()
    else:
        (folder / file).symlink_to("/dev/zero")
    assert str(folder / file) in refusal(folder)


def test_the_cache_of_the_hub_may_link_to_its_blobs(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = tmp_path / "hub" / "models--someone--model"
    commit = "0" * 40
    snapshot = repo / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    for number, name in enumerate(("config.json", WEIGHTS)):
        shutil.copy(folder / name, repo / "blobs" / f"blob{number}")
        (snapshot / name).symlink_to(f"../../blobs/blob{number}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    expected = load_checkpoint(folder)(TOKENS).logits
    for source in (str(snapshot), "someone/model"):
        model: Any = load_model(source)
        assert torch.equal(model(TOKENS).logits, expected)
    (snapshot / WEIGHTS).unlink()
    (snapshot / WEIGHTS).symlink_to(folder / WEIGHTS)
    assert "leads out of its folder" in refusal(snapshot)


# ------------------------------------------------------------------------------------------------ weights and configuration agree

BLOCK = "transformer.h.1.attn.c_attn.weight"
MISFITS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a weight missing": (
        lambda folder: change_weights(folder, lambda w: {key: x for key, x in w.items() if key != BLOCK}),
        f"lack {BLOCK} [16, 48]",
    ),
    "a weight of another shape": (
        lambda folder: change_weights(folder, lambda w: w | {BLOCK: torch.zeros(16, 40)}),
        f"{BLOCK} of shape [16, 40], but its config.json asks for [16, 48]",
    ),
    "a weight too many": (
        lambda folder: change_weights(folder, lambda w: w | {"transformer.h.1.extra": torch.zeros(3)}),
        "does not describe: transformer.h.1.extra [3]",
    ),
    "fewer layers than weights": (
        lambda folder: change(folder, n_layer=1),
        "does not describe: transformer.h.1.attn.c_attn.weight [16, 48]",
    ),
    "more layers than weights": (lambda folder: change(folder, n_layer=3), "lack transformer.h.2.attn.c_attn.bias [48] (and "),
    "another width": (lambda folder: change(folder, n_embd=8), "but its config.json asks for"),
    "another vocabulary": (lambda folder: change(folder, vocab_size=119), "but its config.json asks for [119, 16]"),
    "untied": (lambda folder: change(folder, tie_word_embeddings=False), "lack lm_head.weight [120, 16]"),
    "the library's default size": (
        lambda folder: (folder / "config.json").write_text('{"model_type": "llama"}'),
        "lack",
    ),
    "another architecture": (lambda folder: change(folder, model_type="gpt_neox"), "far more layers"),
    "ten million layers": (lambda folder: change(folder, n_layer=10**7), "n_layer 10000000"),
    "a thousand layers": (lambda folder: change(folder, n_layer=1000), "asks for far more layers than its weights hold"),
    "a trillion positions": (lambda folder: change(folder, n_positions=10**12), "config.json"),
    "quantized": (lambda folder: change(folder, quantization_config={"quant_method": "bitsandbytes"}), "is quantized"),
    "weights of another type": (
        lambda folder: change_weights(folder, lambda w: w | {BLOCK: w[BLOCK].to(torch.float8_e4m3fn)}),
        f"stores {BLOCK} as F8_E4M3; allowed: F64, F32, F16, BF16",
    ),
    "an encoder and decoder": (lambda folder: change(folder, model_type="t5"), "is a t5 model; allowed: causal language models"),
    "a vision model": (lambda folder: change(folder, model_type="vit"), "is a vit model; allowed: causal language models"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_weights_and_configuration_that_differ_are_refused_by_name(folder: Path, name: str) -> None:
    damage, said = MISFITS[name]
    damage(folder)
    assert said in refusal(folder)


def test_computed_buffers_of_older_checkpoints_are_no_surprise(folder: Path) -> None:
    expected = load_checkpoint(folder)(TOKENS).logits
    mask = torch.ones(1, 1, 16, 16, dtype=torch.bool).tril()
    older = {"transformer.h.0.attn.bias": mask, "transformer.h.0.attn.masked_bias": torch.tensor(-1e4)}
    change_weights(folder, lambda w: w | older)
    assert torch.equal(load_checkpoint(folder)(TOKENS).logits, expected)
    change_weights(folder, lambda w: {key.removeprefix("transformer."): x for key, x in w.items()})  # as openai-community/gpt2
    assert torch.equal(load_checkpoint(folder)(TOKENS).logits, expected)


def test_an_attention_kernel_in_the_configuration_is_not_asked_for(folder: Path) -> None:
    change(folder, _attn_implementation="flash_attention_2", attn_implementation="flash_attention_2")
    assert len(open_model(folder).run(TOKENS).patterns) == 2


# ------------------------------------------------------------------------------------------------ a family of damage

VALUES = (0, -1, 1, 3, 10**7, 10**12, 10**30, 1.5, True, None, "", "x", [], [1], {}, [[["global", "local"], 10**9]], {"type": "x"})


@pytest.mark.parametrize("name", ["GPT2", "Llama", "GPTNeo"])
def test_damage_to_any_field_is_one_sentence_or_a_model(saved: dict[str, Path], name: str, tmp_path: Path) -> None:
    """Every field of config.json, one at a time, with values of every kind: read, or refused in a sentence, within two seconds."""
    folder = Path(shutil.copytree(saved[name], tmp_path / "model"))
    content = json.loads((folder / "config.json").read_text())
    outcomes = {"read": 0, "refused": 0}
    for number, field in enumerate(sorted(content)):
        for value in VALUES[number % 4 :: 4]:  # each field meets a quarter of the values
            (folder / "config.json").write_text(json.dumps(content | {field: value}))
            start = time.process_time()
            try:
                classify(str(folder), TASK, n=2)
                outcomes["read"] += 1
            except ValueError as sentence:
                outcomes["refused"] += 1
                assert "\n" not in str(sentence)
                assert "trust_remote_code" not in str(sentence)
            assert time.process_time() - start < SECONDS, (field, value)
    assert min(outcomes.values()) > 10


def header(content: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(content) if length is None else length) + content


FILES: dict[str, bytes] = {
    "empty": b"",
    "short": b"\x01\x02",
    "a pickle": b"\x80\x04\x95\x00",
    "a zip": b"PK\x03\x04" + b"\x00" * 100,
    "header longer than the file": header(b"{}", 10**6),
    "header of 2^63 bytes": header(b"{}", 2**63),
    "header is no JSON": header(b"{{{{"),
    "header is a list": header(b"[]"),
    "no tensors": header(b"{}"),
    "a shape beyond the data": header(b'{"a":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4]}}') + b"\x00" * 4,
    "a shape that overflows": header(b'{"a":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,0]}}'),
    "a huge empty shape": header(b'{"a":{"dtype":"F32","shape":[0,9223372036854775807],"data_offsets":[0,0]}}'),
    "negative offsets": header(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}') + b"\x00" * 4,
    "overlapping": header(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    )
    + b"\x00" * 4,
    "an unknown type": header(b'{"a":{"dtype":"F7","shape":[1],"data_offsets":[0,4]}}') + b"\x00" * 4,
    "deep": header(b"[" * 100_000),
}


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_weights_file_is_refused(folder: Path, name: str) -> None:
    (folder / WEIGHTS).write_bytes(FILES[name])
    assert str(folder) in refusal(folder)


def test_every_cut_and_flip_of_a_header_is_refused_or_read_the_same(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    length = 8 + struct.unpack("<Q", whole[:8])[0]
    sound, read = load_checkpoint(folder)(TOKENS).logits, 0
    for at in range(0, length, length // 60):
        for content in (whole[:at], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
            (folder / WEIGHTS).write_bytes(content)
            try:
                model = load_checkpoint(folder)
            except ValueError as sentence:
                assert "\n" not in str(sentence)
                continue
            assert model(TOKENS).logits.shape == sound.shape
            read += 1
    assert read < 10


# ------------------------------------------------------------------------------------------------ the session is left as it was


@pytest.fixture(params=["float64", "bfloat16", "autocast", "device"])
def session(request: pytest.FixtureRequest) -> Iterator[None]:
    """Settings that a user's session may have."""
    if request.param == "autocast":
        with torch.autocast("cpu", dtype=torch.bfloat16):
            yield
            assert torch.is_autocast_enabled("cpu")
    elif request.param == "device":
        torch.set_default_device("meta")
        yield
        assert torch.get_default_device().type == "meta"
        torch.set_default_device(None)
    else:
        torch.set_default_dtype(getattr(torch, request.param))
        yield
        assert torch.get_default_dtype() == getattr(torch, request.param)
        torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def expected(saved: dict[str, Path]) -> dict[str, Any]:
    return {name: everything(saved[name]) for name in ("GPT2", "Llama")}


def everything(source: Any) -> list[Any]:
    """Logits, activations, weights and an untrained control."""
    opened = open_model(source)
    seen, untrained = opened.run(TOKENS), opened.untrained(1)
    numbers = [opened.logits(TOKENS), seen.logits, *seen.resid_post, *seen.resid_mid, *seen.patterns]
    return [*numbers, untrained.logits(TOKENS), untrained.run(TOKENS).logits, *opened.weights.values()]


@pytest.mark.parametrize("name", ["GPT2", "Llama"])
def test_every_session_reads_the_same_in_fp32(saved: dict[str, Path], expected: dict[str, Any], session: None, name: str) -> None:
    for found, right in zip(everything(saved[name]), expected[name], strict=True):
        assert found.dtype == torch.float32
        assert found.device.type == "cpu"
        assert torch.equal(found, right)


def test_our_own_models_too(session: None) -> None:
    with torch.device("cpu"):
        model = random_gpt(n_layer=2, n_head=1, d_model=8, d_head=8, d_ff=16)
        seen = everything(model)
    assert {x.dtype for x in seen} == {torch.float32}


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float64"])
@pytest.mark.parametrize("wrapped", ["plain", "compiled", "parallel"])
def test_a_users_model_is_unwrapped_and_not_changed(saved: dict[str, Path], kind: str, wrapped: str) -> None:
    model: Any = load_checkpoint(saved["Llama"]).to(getattr(torch, kind))
    model.train()
    model.model.layers[0].eval()  # modes may differ from part to part
    state = {key: x.clone() for key, x in model.state_dict().items()}
    modes, config = [part.training for part in model.modules()], model.config.to_dict()
    wrappers = {"plain": lambda m: m, "compiled": partial(torch.compile, backend="eager"), "parallel": torch.nn.DataParallel}
    given = wrappers[wrapped](model)
    seen = everything(given)
    assert {x.dtype for x in seen} == {torch.float32}
    assert commutativity(given, TASK, n=20).scores()
    assert [part.training for part in model.modules()] == modes
    assert model.config.to_dict() == config
    for key, x in model.state_dict().items():
        assert torch.equal(x, state[key])
        assert x.dtype == state[key].dtype


# ------------------------------------------------------------------------------------------------ what a model says


class Silenced(torch.nn.Module):
    """A logits processor inside the model: some ids never follow."""

    def __init__(self, inner: Any, value: float, ids: slice) -> None:
        super().__init__()
        self.inner, self.value, self.ids = inner, value, ids

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.inner(x).clone()
        logits[..., self.ids] = self.value
        return logits


@pytest.mark.parametrize(
    ("value", "ids", "sound"),
    [
        (-torch.inf, slice(100, 120), True),
        (-torch.inf, slice(0, 120), False),
        (torch.inf, slice(5, 6), False),
        (torch.nan, slice(5, 6), False),
    ],
)
def test_an_id_may_be_silenced_but_not_all(value: float, ids: slice, sound: bool) -> None:
    model: Any = to_transformers(random_gpt())
    model.lm_head = Silenced(model.lm_head, value, ids)
    if sound:
        assert open_model(model).answers(TOKENS.numpy()).max() < 100
    else:
        with pytest.raises(ValueError, match="not finite"):
            open_model(model).answers(TOKENS.numpy())


def test_a_vocabulary_without_some_of_the_answers_is_told() -> None:
    """Tokens up to 99 and answers beyond: the model takes the sequences, but can never be right."""
    used = int(TASK.sample("iid", 4000, 0).tokens.max())
    model = random_gpt(vocab_size=used + 1)
    for ask in (lambda: classify(model, TASK, n=50), lambda: commutativity(model, TASK)):
        with pytest.raises(ValueError, match=rf"^the model's vocabulary is 0\.\.{used}, but task composite also uses ") as refused:
            ask()
        assert "are answers" in str(refused.value)
