"""`anchorbench parts`: every kind with every field."""

from pathlib import Path

import pytest
from conftest import ROOT, Cli, require_one_sentence

from anchorbench.parts import REGISTRIES

KINDS = [(word, kind) for word, registry in REGISTRIES.items() for kind in registry.all]


def test_all_are_listed(cli: Cli) -> None:
    done = cli("parts")
    assert (done.code, done.err) == (0, "")
    for word, kind in KINDS:
        assert f"## {word}\n" in done.out
        assert f"- `{kind}`: " in done.out


def test_the_kinds_of_one_part_are_listed(cli: Cli) -> None:
    said = cli("parts", "decay").out
    assert said.startswith("## decay\n")
    assert [line.split("`")[1] for line in said.splitlines() if line.startswith("- ")] == ["coupled", "scaled", "unscaled"]


@pytest.mark.parametrize(("word", "kind"), KINDS)
def test_one_is_explained(cli: Cli, word: str, kind: str) -> None:
    done = cli("parts", word, kind)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{word} {kind}: ")
    config = REGISTRIES[word][kind].Config
    assert all(f"  {field} = " in done.out for field in config.model_fields if field != "kind")
    undescribed = [name for name, field in config.model_fields.items() if name != "kind" and not field.description]
    assert undescribed == []


def test_the_page_is_of_the_parts_as_they_are(cli: Cli, tmp_path: Path) -> None:
    assert cli("parts", "--out", tmp_path / "parts.md").code == 0
    written = (tmp_path / "parts.md").read_text()
    assert written == (ROOT / "docs" / "parts.md").read_text(), "write it anew: anchorbench parts --out docs/parts.md"
    assert "- `most = 1.0` (more than 0, at most 1e+09): Maximum norm of a member's whole gradient.\n" in written
    refused = cli("parts", "--out", tmp_path / "parts.txt")
    assert refused.code == 2
    require_one_sentence(refused.err)


def test_an_explanation_by_hand(cli: Cli) -> None:
    said = cli("parts", "clip", "norm").out
    assert "Clipping by norm (1211.5063)." in said
    assert "  most = 1.0 (more than 0, at most 1e+09): Maximum norm of a member's whole gradient.\n" in said


def drawn(cli: Cli, kind: str) -> list[str]:
    """The rows of a schedule's plot, from the top; an axis follows."""
    lines = cli("parts", "schedule", kind).out.splitlines()
    assert lines[-1].strip() == "+" + "-" * 64
    return [line.partition("|")[2].ljust(64) for line in lines[-12:-1]]


def test_a_straight_line_is_drawn_as_one(cli: Cli) -> None:
    rows = drawn(cli, "linear")
    assert rows[0].startswith("***")
    assert rows[5].strip() == "*" * len(rows[5].strip())
    assert rows[5].index("*") in range(26, 34)  # half the rate at half the time
    assert "   0.50 |" in cli("parts", "schedule", "linear").out
    assert all("*" in column for column in zip(*rows, strict=True))


def test_rates_that_jump_are_drawn_step_by_step(cli: Cli) -> None:
    said = cli("parts", "schedule", "chebyshev").out
    assert "after warm-up, the first 64 (end" in said
    heights = [max(10 - row for row, line in enumerate(drawn(cli, "chebyshev")) if line[step] == "*") for step in range(64)]
    assert heights[:8] * 8 == heights
    assert heights[0] == 10, "the longest step comes first"
    assert "|" not in cli("parts", "optimizer", "sgd").out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("optimiser", "adamw"), "unknown part 'optimiser'; did you mean 'optimizer'? allowed: clip, "),
        (("optimizer", "adam"), "unknown optimizer 'adam'; did you mean 'adamw'? allowed: "),
    ],
)
def test_an_unknown_one_is_one_sentence(cli: Cli, arguments: tuple[str, ...], said: str) -> None:
    refused = cli("parts", *arguments)
    assert refused.code == 2
    require_one_sentence(refused.err)
    assert said in refused.err
