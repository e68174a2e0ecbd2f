"""Exported members answer as the originals do, wherever they are opened; what cannot be opened is refused in one sentence."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import bytes_of, patterns_of, random_gpt
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, OpenAIGPTLMHeadModel
from transformers.utils import logging

from anchorbench import classify, load_task
from anchorbench.hf import AnchorGPTForCausalLM
from anchorbench.hub.models import export, load_member, to_transformers, tokenizer
from anchorbench.inspect.open_model import OpenModel, open_model
from anchorbench.model.gpt import GPT
from anchorbench.sweeps.run_folder import DamagedRunError, Run

TOLERANCE = 3e-5
"""Logits here reach 10; fp32 sums in another order differ by a few times 1e-6 of that, and no more than this in any kernel."""

# Each shape with the class that it becomes. d_model 12 and 10: heads that fill it, and heads that are padded.
SHAPES: dict[str, tuple[dict[str, object], type]] = {
    "pre-LN": ({"d_model": 12, "d_head": 12, "d_ff": 48}, GPT2LMHeadModel),
    "pre-LN, no bias": ({"d_model": 12, "d_head": 12, "d_ff": 20, "bias": False}, GPT2LMHeadModel),
    "pre-LN, relu": ({"d_model": 12, "d_head": 12, "d_ff": 20, "activation": "relu"}, GPT2LMHeadModel),
    "pre-LN, narrow head": ({"d_model": 12, "d_head": 5, "d_ff": 20}, GPT2LMHeadModel),
    "pre-LN, three heads": ({"d_model": 12, "d_head": 4, "n_head": 3, "d_ff": 20}, GPT2LMHeadModel),
    "pre-LN, narrow heads, no bias": ({"d_model": 12, "d_head": 3, "n_head": 2, "d_ff": 20, "bias": False}, GPT2LMHeadModel),
    "post-LN, relu": (
        {"norm": "post", "activation": "relu", "d_model": 12, "d_head": 6, "n_head": 2, "d_ff": 48},
        OpenAIGPTLMHeadModel,
    ),
    "post-LN, gelu": ({"norm": "post", "d_model": 12, "d_head": 6, "n_head": 2, "d_ff": 48}, AnchorGPTForCausalLM),
    "paper-neurips": (
        {
            "norm": "post",
            "activation": "relu",
            "bias": False,
            "unembed_bias": True,
            "d_model": 10,
            "d_head": 5,
            "n_head": 1,
            "d_ff": 30,
        },
        AnchorGPTForCausalLM,
    ),
}
TASK = load_task("composite")
TOKENS = TASK.sample("train", 32, 0).tokens


def gpt(name: str) -> GPT:
    return random_gpt(n_layer=2, **SHAPES[name][0])


def logits(model: GPT) -> torch.Tensor:
    return model(torch.from_numpy(TOKENS)[None])[0]


def patterns(model: GPT) -> list[np.ndarray]:
    return [pattern[0].numpy() for pattern in patterns_of(model, torch.from_numpy(TOKENS)[None])]


@pytest.fixture
def member(monkeypatch: pytest.MonkeyPatch, run: Run):
    """Exports random models: a run whose weights are those of the model of the given name."""

    def give(name: str) -> tuple[Run, GPT]:
        model = gpt(name)
        monkeypatch.setattr("anchorbench.hub.models.load_member", lambda *args: model)
        return run, model

    return give


def assert_same(opened: OpenModel, model: GPT) -> None:
    """The opened model has the stack's logits and attention patterns."""
    tokens = torch.from_numpy(TOKENS)
    torch.testing.assert_close(opened.logits(tokens)[0], logits(model), rtol=0, atol=TOLERANCE)
    for found, expected in zip(opened.run(tokens).patterns, patterns(model), strict=True):
        np.testing.assert_allclose(found[0], expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", SHAPES)
def test_an_exported_member_has_the_same_logits(member, name: str, tmp_path: Path) -> None:
    run, model = member(name)
    assert logits(model).std() > 0.5  # else everything would be close
    out = export(run, tmp_path / "out")
    opened = AutoModelForCausalLM.from_pretrained(out, attn_implementation="eager", trust_remote_code=False)
    assert type(opened) is SHAPES[name][1]
    assert not opened.training
    with torch.no_grad():
        torch.testing.assert_close(opened(torch.from_numpy(TOKENS)).logits[:, -1], logits(model), rtol=0, atol=TOLERANCE)
    assert_same(open_model(out), model)
    assert_same(open_model(str(out)), model)


def test_a_checkpoint_holds_what_it_needs_and_neither_code_nor_pickle(member, tmp_path: Path) -> None:
    plain = {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "README.md",
        "anchorbench.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    for name in ("pre-LN", "post-LN, relu", "paper-neurips"):
        run, _ = member(name)
        out = export(run, tmp_path / name)
        assert {path.name for path in out.iterdir()} == plain
        assert "auto_map" not in json.loads((out / "config.json").read_text())
        assert out.stat().st_mode & 0o777 == 0o755
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    card = json.loads((tmp_path / "pre-LN" / "anchorbench.json").read_text())
    assert card["recipe"] == run.recipe.model_dump(mode="json")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of TransformerLens and what it imports
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", ["pre-LN", "pre-LN, narrow heads, no bias", "post-LN, relu", "post-LN, gelu", "paper-neurips"])
def test_transformer_lens_opens_a_checkpoint(member, name: str, tmp_path: Path) -> None:
    from transformer_lens.model_bridge import TransformerBridge

    run, model = member(name)
    bridge = TransformerBridge.boot_transformers(str(export(run, tmp_path / "out")), device="cpu")
    found, cache = bridge.run_with_cache(torch.from_numpy(TOKENS))
    torch.testing.assert_close(found[:, -1], logits(model), rtol=0, atol=TOLERANCE)
    for layer, expected in enumerate(patterns(model)):
        np.testing.assert_allclose(cache["pattern", layer].detach().numpy(), expected, rtol=0, atol=TOLERANCE)
    assert bridge.cfg.act_fn == model.shape.activation
    assert bridge.tokenizer.encode(TASK.text(TOKENS[:1])[0]) == TOKENS[0].tolist()
    opened = open_model(bridge)
    assert_same(opened, model)
    assert (opened.vocab_size, opened.max_length) == (TASK.vocab_size, TASK.seq_len)
    assert opened.untrained(0).run(torch.from_numpy(TOKENS)).patterns[0][0].shape == patterns(model)[0].shape


def test_the_tokenizer_reads_the_tasks_text(member, tmp_path: Path) -> None:
    run, _ = member("pre-LN")
    saved = AutoTokenizer.from_pretrained(export(run, tmp_path / "out"))
    assert saved(TASK.text(TOKENS))["input_ids"] == TOKENS.tolist()
    assert saved.decode(TOKENS[0]) == TASK.text(TOKENS[:1])[0]
    assert saved.encode("never-heard 57") == [TASK.vocab_size, 57]  # an id that no model of the task has


@pytest.mark.parametrize("name", ["identity", "scan", "ontology", "sparse-boolean"])
def test_every_word_of_a_vocabulary_has_its_id(name: str) -> None:
    task = load_task(name)
    assert tokenizer(task).encode(" ".join(token.word for token in task.vocabulary)) == list(range(task.vocab_size))


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ({"d_model": 12, "d_head": 12, "query_norm_only": True}, "query_norm_only"),
        ({"d_model": 12, "d_head": 5, "n_head": 5}, "5 heads of width 5 do not fit d_model 12"),
        ({"d_model": 12, "d_head": 12, "n_head": 2}, "2 heads of width 12 do not fit d_model 12"),
        ({"d_model": 12, "d_head": 12, "unembed_bias": True}, "output bias"),
    ],
)
def test_a_shape_without_a_counterpart_is_refused(shape: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        to_transformers(random_gpt(**shape))


def full_disk(*args: object, **kwargs: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    "where", ["transformers.GPT2LMHeadModel.save_pretrained", "pathlib.Path.write_text", "pathlib.Path.rename"]
)
def test_a_failed_export_leaves_nothing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(where, full_disk)
        with pytest.raises(ValueError, match="out cannot be written: No space left on device"):
            export(run, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    assert export(run, tmp_path / "out") == tmp_path / "out"


def test_an_export_never_overwrites(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("text")
    before = bytes_of(tmp_path)
    for out in (tmp_path / "file", tmp_path / "full"):
        with pytest.raises(ValueError, match="exists and is not an empty folder"):
            export(run, out)
    with pytest.raises(ValueError, match="below cannot be written"):
        export(run, tmp_path / "file" / "below")
    assert bytes_of(tmp_path) == before
    (tmp_path / "empty").mkdir()
    assert (export(run, tmp_path / "empty") / "model.safetensors").exists()


def test_an_export_leaves_the_progress_bar_as_it_was(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logging.enable_progress_bar()
    open_model(export(run, tmp_path / "out"))
    assert logging.is_progress_bar_enabled()
    assert capsys.readouterr() == ("", "")


def test_a_run_opens_in_every_form(run: Run, tmp_path: Path) -> None:
    model = load_member(run)
    for form in (run, run.path, str(run.path), model, to_transformers(model), export(run, tmp_path / "out"), open_model(run)):
        assert_same(open_model(form), model)


def test_classify_is_the_same_in_every_form(run: Run, tmp_path: Path) -> None:
    task = run.recipe.load_task()
    expected = classify(run, task, n=200)
    assert expected.accuracy_iid.n == 200
    for form in (run.path, load_member(run), export(run, tmp_path / "out")):
        assert classify(form, task, n=200) == expected


def test_answers_are_the_largest_logits() -> None:
    model = gpt("pre-LN")
    opened = open_model(model)
    np.testing.assert_array_equal(opened.answers(TOKENS)[0], logits(model).argmax(-1).numpy())
    many = np.tile(TOKENS, (40, 1))  # more than one batch
    np.testing.assert_array_equal(opened.answers(many), np.tile(opened.answers(TOKENS), 40))


def test_an_untrained_model_is_fresh_and_repeatable() -> None:
    model, tokens = gpt("pre-LN"), torch.from_numpy(TOKENS)
    for form in (model, to_transformers(model)):
        opened = open_model(form)
        state = torch.random.get_rng_state()
        first, again, other = (opened.untrained(seed).logits(tokens) for seed in (1, 1, 2))
        assert torch.equal(torch.random.get_rng_state(), state)
        assert torch.equal(first, again)
        assert (first - other).abs().max() > 1e-4
        assert (first - opened.logits(tokens)).abs().max() > 1e-2


def test_a_model_in_training_is_read_without_dropout_and_left_in_training() -> None:
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=120, n_positions=9, n_embd=8, n_layer=1, n_head=1, attn_implementation="eager", resid_pdrop=0.5)
    )
    opened = open_model(model.train())
    first, again = (opened.logits(torch.from_numpy(TOKENS)) for _ in range(2))
    assert torch.equal(first, again)
    assert model.training


def test_attention_is_read_from_a_model_that_does_not_return_it() -> None:
    model = to_transformers(gpt("pre-LN"))
    model.set_attn_implementation("sdpa")
    assert_same(open_model(model), gpt("pre-LN"))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (3, "int is not a model"),
        (None, "NoneType is not a model"),
        (nn.Linear(2, 2), "Linear is not a model"),
        (random_gpt(members=3), "the stack has 3 members; allowed: 1"),
        ("", "holds neither a checkpoint"),
        (Path(__file__).parent, "holds neither a checkpoint"),
        ("a b", "neither a folder nor a Hub id"),
        ("no/such/folder", "neither a folder nor a Hub id"),
        (Path("no-such-folder"), "neither a folder nor a Hub id"),
        (Path(__file__), "neither a folder nor a Hub id"),
        (__file__, "neither a folder nor a Hub id"),
        ("nobody/has-this-model", "is not in the local cache, and the Hugging Face Hub cannot be reached"),
    ],
)
def test_what_is_no_model_is_refused(model: object, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        open_model(model)
    assert "\n" not in str(refused.value)


def damage_weights(change):
    """Rewrites the checkpoint's weights as `change(weights)` says."""

    def damage(folder: Path) -> None:
        save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", metadata={"format": "pt"})

    return damage


def pickle_only(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def cut(name: str, keep: int):
    def damage(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:keep])

    return damage


DAMAGE = {
    "pickled weights only": pickle_only,
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "no configuration": lambda folder: (folder / "config.json").unlink(),
    "weights emptied": cut("model.safetensors", 0),
    "weights cut in the header": cut("model.safetensors", 100),
    "weights cut in the data": cut("model.safetensors", 4000),
    "configuration cut": cut("config.json", 50),
    "configuration of no model": lambda folder: (folder / "config.json").write_text("[1, 2]"),
    "configuration of an unknown model": lambda folder: (folder / "config.json").write_text('{"model_type": "unheard-of"}'),
    "a weight missing": damage_weights(
        lambda weights: {name: w for name, w in weights.items() if "h.1.attn.c_attn.weight" not in name}
    ),
    "a weight of another shape": damage_weights(lambda weights: weights | {"lm_head.weight": torch.zeros(3, 12)}),
    "weights of another model": damage_weights(lambda weights: {"surprise": torch.zeros(3)}),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_checkpoint_is_refused(member, name: str, tmp_path: Path) -> None:
    run, _ = member("pre-LN")
    out = export(run, tmp_path / "out")
    DAMAGE[name](out)
    with pytest.raises(ValueError, match=str(out)) as refused:
        open_model(out)
    assert "\n" not in str(refused.value)


def test_a_damaged_run_is_refused(sweep: Path) -> None:
    folder = next((sweep / "runs").iterdir())
    (folder / "recipe.json").unlink()
    with pytest.raises(DamagedRunError, match=r"recipe\.json is missing"):
        open_model(folder)


def test_weights_that_are_not_finite_are_refused(member, tmp_path: Path) -> None:
    run, model = member("pre-LN")
    out = export(run, tmp_path / "out")
    damage_weights(lambda weights: weights | {"transformer.ln_f.bias": torch.full((12,), torch.nan)})(out)
    with pytest.raises(ValueError, match="not finite"):
        open_model(out).answers(TOKENS)
    with torch.no_grad():
        model.blocks[0].query.weight.fill_(torch.inf)
    for read in (open_model(model).logits, open_model(model).run):
        with pytest.raises(ValueError, match="not finite"):
            read(torch.from_numpy(TOKENS))


def test_a_model_that_does_not_fit_the_task_is_refused() -> None:
    small = random_gpt(vocab_size=50, seq_len=9)
    for form in (small, to_transformers(random_gpt(vocab_size=50, seq_len=9))):
        for read in (open_model(form).logits, open_model(form).run):
            with pytest.raises(ValueError, match=r"the task uses token \d+, but the model's vocabulary is 0\.\.49"):
                read(torch.from_numpy(TOKENS))
    short = random_gpt(seq_len=5)
    with pytest.raises(ValueError, match="sequences have 9 tokens; the model takes exactly 5"):
        open_model(short).answers(TOKENS)
    with pytest.raises(ValueError, match="sequences have 9 tokens; the model takes at most 5"):
        classify(to_transformers(short), TASK, n=10)
    with pytest.raises(ValueError, match="sequences have 9 tokens; the model takes exactly 12"):
        open_model(random_gpt(seq_len=12)).run(torch.from_numpy(TOKENS))


def test_a_longer_transformers_model_takes_shorter_sequences() -> None:
    model = to_transformers(random_gpt(seq_len=12))
    assert open_model(model).answers(TOKENS).shape == (1, len(TOKENS))
