"""`anchorbench classify` and `anchorbench probe NAME`: on runs, checkpoints and other architectures, and on what does not fit."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SMALL_COMPOSITE, Cli, random_gpt, require_one_sentence
from safetensors.torch import load_file, save_file

from anchorbench import load_task
from anchorbench.hub.models import export, to_transformers, tokenizer
from anchorbench.inspect.planted import key_to_anchors, pair_lookup
from anchorbench.model.gpt import GPT
from anchorbench.probes import list_probes
from anchorbench.recipe import Recipe
from anchorbench.sweeps.run_folder import Run

TASK = load_task("composite")
NAME = ("--task", "composite-heldout-both")


@pytest.fixture(autouse=True)
def _quiet_saving() -> Iterator[None]:
    """What these tests save shows no bars, so that standard error holds what the command says alone."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


def checkpoint(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer(TASK).save_pretrained(folder)
    return folder


def llama(seed: int = 0) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=120, max_position_embeddings=9, **size, **heads))


def only(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Planted models are wide, and all probes take a minute."""
    monkeypatch.setattr("anchorbench.show.examine.list_probes", lambda: {name: list_probes()[name]})


def planted(plant: Callable[..., GPT], norm: str, variant: str, folder: Path) -> Path:
    """A checkpoint of a circuit for a small task, which its card names."""
    recipe = Recipe(variant=variant, task_config=SMALL_COMPOSITE)
    to_transformers(plant(recipe.load_task(), norm, 0)).save_pretrained(folder)
    (folder / "anchorbench.json").write_text(json.dumps({"recipe": recipe.model_dump(mode="json")}))
    return folder


def test_a_member_that_composes(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "patching")
    shown = cli("classify", planted(key_to_anchors, "pre", "heldout-both", tmp_path / "model"), "--json", "--probes")
    assert (shown.code, shown.err) == (0, "")
    found = json.loads(shown.out)
    assert (found["task"], found["variant"]) == ("composite", "heldout-both")
    behaviour = found["behaviour"]
    assert (behaviour["verdict"], behaviour["inferential"], behaviour["symmetric"]) == ("inferential", 1.0, None)
    assert behaviour["accuracy_iid"] == 1.0
    assert found["forecast"]["verdict"] == "inferential"
    assert found["forecast"]["composes"]["value"] > 0.9
    assert found["forecast"]["fidelity"] > 0.9
    assert found["probes"].keys() == {"patching"}
    score = found["probes"]["patching"]["scores"]["anchors_carry.0"]
    assert score["value"] == 1.0
    assert score["low"] < 1.0 == score["high"]
    assert score["control"] < 0.1
    assert all(probe["does_not_show"] for probe in found["probes"].values())


def test_a_table_with_an_exception(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "embedding_order")
    folder = planted(pair_lookup, "post", "conflict", tmp_path / "model")
    shown = cli("classify", folder, "--figures", tmp_path / "page.svg")
    assert (shown.code, shown.err) == (0, "")
    assert "behaviour: symmetric" in shown.out
    assert "forecast: memorizing: 0.0" in shown.out
    assert (tmp_path / "page.svg").read_text().count("<svg") == 1


def test_a_run_and_its_export_say_their_task_themselves(cli: Cli, run: Run, tmp_path: Path) -> None:
    """Six steps of training teach nothing: underfit, and no forecast."""
    for source in (run.path, export(run, tmp_path / "model")):
        found = json.loads(cli("classify", source, "--json").out)
        assert found["behaviour"]["verdict"] == "underfit"
        assert (found["forecast"]["verdict"], found["forecast"]["composes"]) == ("cannot be told", None)
        assert found["probes_not_read"] == "not read; --probes reads them"


def test_a_llama(cli: Cli, tmp_path: Path) -> None:
    shown = cli("classify", checkpoint(llama(), tmp_path / "llama"), *NAME)
    assert shown.code == 0
    assert "behaviour: underfit" in shown.out
    assert "forecast: cannot be told (accuracy on trained sequences is only 0.0" in shown.out
    assert "scale: embed_tokens " in shown.out


@pytest.mark.parametrize("name", [*list_probes(), "effective_width"])  # one that is read on request only
def test_each_probe_alone(cli: Cli, run: Run, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anchorbench.verdict.FIT", 0.0)  # six steps of training count as fit here
    shown = cli("probe", name, run.path, "--figures", tmp_path / f"{name}.png")
    assert (shown.code, shown.err) == (0, "")
    assert name in shown.out
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_one_probe_as_json(cli: Cli, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anchorbench.verdict.FIT", 0.0)
    found = json.loads(cli("probe", "commutativity", run.path, "--json").out)
    assert list(found["probes"]) == ["commutativity"]


def test_an_underfit_model_gets_no_probe_scores(cli: Cli, run: Run, tmp_path: Path) -> None:
    for command in (("classify", "--probes"), ("probe", "condensation")):
        shown = cli(*command, run.path, "--figures", tmp_path / "page.png")
        assert shown.out.startswith("behaviour: underfit")
        assert "probes: not read, as the model has not learned the trained pairs (below 90%)" in shown.out
        assert "95% interval" not in shown.out
        assert shown.code == 2  # there is no page of figures
        require_one_sentence(shown.err)
        found = json.loads(cli(*command, run.path, "--json").out)
        assert found["probes"] is None
        assert found["probes_not_read"].startswith("not read, as the model has not learned")
    assert not (tmp_path / "page.png").exists()


def test_all_probes_of_a_run_are_in_one_table(cli: Cli, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anchorbench.verdict.FIT", 0.0)
    opened: list[Path] = []
    weights = Run.weights
    monkeypatch.setattr(Run, "weights", lambda run, step=None: opened.append(run.path) or weights(run, step))
    shown = cli("classify", run.path, "--probes")
    assert shown.code == 0
    for name in list_probes():
        assert f" {name} " in shown.out
    assert opened == [run.path]  # the weights are read once


def test_the_scale_of_each_matrix(cli: Cli, run: Run, tmp_path: Path) -> None:
    """An untrained member's scale is that of its recipe; an export says the same under other names."""
    ours, theirs = (
        json.loads(cli("classify", source, "--json").out)["scales"] for source in (run.path, export(run, tmp_path / "model"))
    )
    weights = run.weights()
    for name, key in (("token_embedding", "token_embedding"), ("blocks.1.ff_in", "blocks.1.ff_in.weight")):
        assert ours[name]["std"] == pytest.approx(float(weights[key].std(correction=0)), rel=1e-5)
        assert ours[name]["std"] == pytest.approx(8 ** -ours[name]["gamma"])
        assert ours[name]["gamma"] == pytest.approx(run.recipe.init.gamma, abs=0.1)
    assert theirs["transformer.h.1.mlp.c_fc"] == pytest.approx(ours["blocks.1.ff_in"])
    assert theirs["transformer.wte"] == pytest.approx(ours["token_embedding"])
    assert "scale: token_embedding 0." in cli("classify", run.path).out


def test_a_task_without_pairs_has_no_forecast_and_says_why(cli: Cli, tmp_path: Path) -> None:
    task = load_task("identity")
    folder = checkpoint(to_transformers(random_gpt(vocab_size=task.vocab_size, seq_len=task.seq_len)), tmp_path / "model")
    found = json.loads(cli("classify", folder, "--task", "identity", "--json").out)
    assert found["forecast"] == {"verdict": None, "why": "task identity-default holds nothing out: there is nothing to forecast"}


def small(folder: Path) -> Path:
    return checkpoint(to_transformers(random_gpt(d_model=16, d_head=16, d_ff=64)), folder)


def nothing(folder: Path) -> Path:
    return folder


def weightless(folder: Path) -> Path:
    (small(folder) / "model.safetensors").unlink()
    return folder


def pickled(folder: Path) -> Path:
    weights = load_file(small(folder) / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def not_finite(folder: Path) -> Path:
    weights = load_file(small(folder) / "model.safetensors")
    weights["transformer.wte.weight"][:] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def truncated(folder: Path) -> Path:
    path = small(folder) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    return folder


def few_words(folder: Path) -> Path:
    return checkpoint(to_transformers(random_gpt(vocab_size=50)), folder)


def short(folder: Path) -> Path:
    return checkpoint(to_transformers(random_gpt(seq_len=5)), folder)


def no_causal_model(folder: Path) -> Path:
    from transformers import T5Config, T5ForConditionalGeneration

    T5ForConditionalGeneration(T5Config(vocab_size=120, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)).save_pretrained(
        folder
    )
    return folder


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (nothing, "neither a folder nor a Hub id"),
        (weightless, "holds no model.safetensors"),
        (pickled, "allowed: weights as safetensors only"),
        (truncated, "is not a complete safetensors file"),
        (not_finite, "not finite"),
        (few_words, "the model's vocabulary is 0..49"),
        (short, "the model takes at most 5"),
        (no_causal_model, "is a t5 model; allowed: causal language models"),
    ],
)
def test_bad_checkpoints_are_one_sentence(cli: Cli, make: Any, said: str, tmp_path: Path) -> None:
    folder = make(tmp_path / "model")
    for command in (("classify",), ("probe", "patching")):
        refused = cli(*command, folder, *NAME, "--figures", tmp_path / "page.pdf")
        assert refused.code == 2
        require_one_sentence(refused.err)
        assert said in refused.err
        assert not (tmp_path / "page.pdf").exists()


def test_unsupported_by_transformer_lens_is_one_sentence(cli: Cli, tmp_path: Path) -> None:
    from transformers import CTRLConfig, CTRLLMHeadModel

    config = CTRLConfig(vocab_size=120, n_positions=9, n_embd=8, dff=8, n_layer=2, n_head=2)
    CTRLLMHeadModel(config).save_pretrained(tmp_path / "model")
    refused = cli("probe", "patching", tmp_path / "model", *NAME)
    assert refused.code == 2
    require_one_sentence(refused.err)
    assert "probes cannot look inside CTRLLMHeadModel: TransformerLens does not support this architecture" in refused.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("classify", "{model}"), "does not say which task it was trained on; give --task"),
        (("classify", "{model}", "--task", "composit"), "unknown task 'composit'"),
        (("classify", "{model}", *NAME, "--figures", "page.jpg"), "allowed: a file that ends in .pdf or .svg or .png"),
        (("probe", "attention", "{model}", *NAME), "unknown probe 'attention'; did you mean 'attention_flow'? allowed: "),
        (("classify", "{model}", *NAME, "--figures", "{empty}/none/page.pdf"), "does not exist; choose another --figures"),
        (("probe", "fit", "{empty}"), "holds no finished runs"),
        (("probe", "validate", "--json", "{empty}/none/out.json"), "does not exist"),
    ],
)
def test_bad_options_are_one_sentence(cli: Cli, arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    model = checkpoint(to_transformers(random_gpt()), tmp_path / "model")
    (tmp_path / "empty").mkdir()
    refused = cli(*(text.format(model=model, empty=tmp_path / "empty") for text in arguments))
    assert refused.code == 2
    require_one_sentence(refused.err)
    assert said in refused.err


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[]", b"{}", b'{"recipe": {"task": "no"}}', b'{"recipe": ' + b"[" * 9999])
def test_a_damaged_card_is_one_sentence(cli: Cli, run: Run, tmp_path: Path, content: bytes) -> None:
    folder = export(run, tmp_path / "model")
    (folder / "anchorbench.json").write_bytes(content)
    refused = cli("classify", folder)
    assert refused.code == 2
    require_one_sentence(refused.err)


def test_weights_of_another_fit(cli: Cli, sweep: Path, tmp_path: Path) -> None:
    """Six steps teach nothing: no run's behaviour is decided, so there is nothing to fit."""
    refused = cli("probe", "fit", sweep, "--out", tmp_path / "weights.json")
    assert refused.code == 2
    require_one_sentence(refused.err)
    assert not (tmp_path / "weights.json").exists()
    shutil.rmtree(sweep)
