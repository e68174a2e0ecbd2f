"""Tiny foreign architectures: opened from fp32, bf16 and fp16 with the right logits, and probed, or refused in one sentence."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo

from anchorbench import load_task
from anchorbench.hub.checkpoint import load_checkpoint
from anchorbench.inspect.open_model import Site, open_model
from anchorbench.probes import list_probes, run_probe

TASK = load_task("composite")
TOKENS = torch.from_numpy(TASK.sample("iid", 3, 0).tokens)
KINDS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PROBED = ("GPTNeoX", "Gemma2", "Llama", "Mixtral", "OPT", "Qwen3")
"""Different architectures: parallel blocks, soft-capped scores, grouped keys, experts, learned positions, normed queries."""

make = cache(zoo.make)


def rounded(name: str, kind: torch.dtype) -> Any:
    """The model with its parameters rounded to a type: what a checkpoint in that type holds."""
    model = zoo.make(name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(kind))
    return model


@pytest.mark.parametrize("name", zoo.ZOO)
def test_logits_are_those_of_the_saved_weights_in_fp32(name: str, tmp_path: Path) -> None:
    for kind, dtype in KINDS.items():
        expected = rounded(name, dtype)
        zoo.make(name).to(dtype).save_pretrained(tmp_path / kind)
        opened = load_checkpoint(tmp_path / kind)
        assert {x.dtype for x in opened.parameters()} == {torch.float32}
        with torch.no_grad():
            torch.testing.assert_close(opened(TOKENS).logits, expected(TOKENS).logits, rtol=1e-4, atol=1e-5)
    assert open_model(opened).answers(TOKENS.numpy()).shape == (1, 3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of TransformerLens and what it imports
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", zoo.ZOO)
def test_the_inside_is_read_right_or_not_at_all(name: str) -> None:
    model = make(name)
    if name in zoo.UNREAD:
        with pytest.raises(ValueError, match=r"^probes cannot look inside \w+: TransformerLens does not ") as refused:
            open_model(model).look_inside()
        assert "\n" not in str(refused.value)
        assert run_probe("commutativity", model, TASK).scores(), "answers are all that this probe asks for"
        return
    inside = open_model(model)
    seen = inside.run(TOKENS)
    with torch.no_grad():
        said = model(TOKENS, output_hidden_states=True, output_attentions=True)
    torch.testing.assert_close(seen.logits[0], said.logits[:, -1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(seen.resid_post[0][0], said.hidden_states[1], rtol=1e-3, atol=1e-4)
    assert len(said.attentions) == 2
    for ours, theirs in zip(seen.patterns, said.attentions, strict=True):
        torch.testing.assert_close(ours[0], theirs, rtol=1e-3, atol=1e-4)
    assert inside.untrained(0).weights.keys() == inside.weights.keys() >= {"embedding", "unembedding", "query.0", "value.1"}
    edited = inside.run(
        TOKENS, {Site(0, "resid_post"): lambda x: x.roll(1, dims=1)}
    )  # every sequence goes on with another's stream
    torch.testing.assert_close(edited.logits, seen.logits.roll(1, dims=1), rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", PROBED)
def test_every_probe(name: str) -> None:
    model = make(name)
    inside = open_model(model)
    for probe in list_probes():
        assert run_probe(probe, inside, TASK).scores()


def test_an_encoder_is_not_causal() -> None:
    from transformers import BertConfig, BertLMHeadModel

    encoder = BertLMHeadModel(BertConfig(**zoo.SIZE, max_position_embeddings=16)).eval()
    with pytest.raises(ValueError, match=r"^BertLMHeadModel is not causal: its positions see later ones; allowed: "):
        open_model(encoder)
