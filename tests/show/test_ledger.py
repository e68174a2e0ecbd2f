"""The ledger: what is written reads back, what is damaged or stale is said and never half a verdict, and the command."""

import json
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import hostile
import numpy as np
import pytest
from conftest import ROOT, Cli, require_one_sentence
from pages import Structure

from anchorbench.claim import Claim, Curve, Experiment, Findings, Measure, Panel, Scale, Verdict, above, claims
from anchorbench.cli.reproduce import rule_commit
from anchorbench.recipe import Recipe
from anchorbench.show import ledger
from anchorbench.show.html import MAX_PAGE_BYTES
from anchorbench.task import load_task


class Toy(Claim):
    """The mean of a few numbers."""

    name = "toy"
    paper = "none (2026)"
    statement = "The numbers are positive."
    ground = "Three numbers."
    measures: ClassVar[Mapping[str, str]] = {"mean": "the mean of the numbers", "count": "how many | there are"}
    rule = "It replicates if the interval of mean lies above 0; else it does not, or it cannot be told."
    seconds = 1
    scales: ClassVar[Mapping[Scale, Experiment]] = {"laptop": Experiment(seeds=3), "paper": Experiment(seeds=5)}
    values: ClassVar[list[float]] = [1.0, 2.0, 3.0]

    def run(self) -> Findings:
        n = self.settings.seeds
        curve = Curve.over_units("numbers", [1.0, 2.0], np.outer(np.arange(1.0, n + 1), [1.0, 2.0]))
        measures = {"count": Measure.exact(n), "mean": Measure.of(self.values)}
        return Findings(measures, [Panel(title="numbers", x="place", y="value", level=0, curves=[curve])], 7)

    @classmethod
    def judge(cls, measures: Mapping[str, Measure]) -> Verdict:
        return above(measures["mean"], 0)


class Broken(Toy):
    """It cannot be run."""

    name = "broken"

    def run(self) -> Findings:
        raise ValueError("the numbers are missing; allowed: numbers")


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The only claim there is, but for tests of the committed ledger."""
    monkeypatch.setattr(claims, "all", {"toy": Toy})


def entry(**changed: Any) -> ledger.Entry:
    made = ledger.Entry.of(Toy, "laptop", Toy(Toy.scales["laptop"]).run(), 1.25)
    return made.model_copy(update=changed)


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    path = ledger.write_entry(tmp_path, entry())
    assert path.name == "toy.laptop.json"
    found = ledger.read_entry(path)
    assert found == entry()
    assert (found.verdict, found.stale, found.passes, found.seconds) == ("cannot be told at this scale", "", 7, 1.2)
    assert list(found.measures) == ["mean", "count"]
    assert found.settings == {"seeds": 3}
    assert {"anchorbench", "torch", "cpu"} <= found.made_by.keys()


def changed(path: str, value: Any) -> bytes:
    """The entry's file with one value replaced."""
    content = entry().model_dump(mode="json")
    at: Any = content
    *parents, leaf = path.split(".")
    for parent in parents:
        at = at[int(parent) if isinstance(at, list) else parent]
    at[int(leaf) if isinstance(at, list) else leaf] = value
    return json.dumps(content).encode()


DAMAGED: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "empty": (b"", ("is not JSON",)),
    "not JSON": (b"{", ("is not JSON",)),
    "not UTF-8": (b"\xff{}", ("is not UTF-8",)),
    "a list": (b"[]", ("is not a JSON object",)),
    "repeated key": (b'{"claim": "toy", "claim": "toy"}', ("'claim'", "repeated")),
    "no fields": (b"{}", ("claim", "required")),
    "unknown field": (json.dumps(entry().model_dump(mode="json") | {"p": 1}).encode(), ("unknown field 'p'",)),
    "unknown claim": (changed("claim", "tyo"), ("unknown claim 'tyo'", "did you mean 'toy'")),
    "unknown scale": (changed("scale", "desktop"), ("scale is 'desktop'", "laptop")),
    "another scale": (changed("scale", "paper"), ("holds claim toy at paper scale",)),
    "unknown verdict": (changed("verdict", "true"), ("verdict is 'true'", "replicates")),
    "a verdict that does not follow": (changed("verdict", "replicates"), ("'replicates'", "give 'cannot be told at this scale'")),
    "not a number": (changed("measures.mean.value", float("nan")), ("NaN", "finite")),
    "infinite": (changed("measures.mean.high", 1e999), ("Infinity",)),
    "text for a number": (changed("measures.mean.value", "2"), ("measures.mean.value is '2'", "number")),
    "a value outside its interval": (changed("measures.mean.low", 5.0), ("measures.mean", "allowed: a value inside its interval")),
    "no units": (changed("measures.mean.n", 0), ("measures.mean.n is 0", "1")),
    "half a curve": (changed("panels.0.curves.0.y", [1.0]), ("2 x and 1 y",)),
    "half a band": (changed("panels.0.curves.0.low", []), ("one length",)),
    "negative time": (changed("seconds", -1), ("seconds is -1", "0")),
    "too many panels": (changed("panels", entry().model_dump(mode="json")["panels"] * 5), ("panels", "4")),
    "deep": (changed("settings", eval("[" * 40 + "]" * 40)), ("nests more than",)),  # noqa: S307 - our own text
    "large": (changed("statement", "x" * 2**20), ("bytes", "at most")),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    content, said = DAMAGED[name]
    path = tmp_path / "toy.laptop.json"
    path.write_bytes(content)
    with pytest.raises(ValueError) as refusal:
        ledger.read_entry(path)
    sentence = str(refusal.value)
    assert "\n" not in sentence
    assert len(sentence) < 500 + len(str(path))
    for part in ("toy.laptop.json", *said):
        assert part in sentence
    problems = ledger.render(tmp_path)
    assert problems == [sentence]
    text = (tmp_path / "README.md").read_text()
    assert "its file is damaged: `anchorbench reproduce toy`" in text
    assert "| `mean` |" not in text


STALE: dict[str, tuple[dict[str, Any], str]] = {
    "version": ({"version": 2, "verdict": "replicates"}, "it is of version 2 of the claim, which is now at 1"),
    "rule": ({"rule": "It replicates."}, "worded differently"),
    "statement": ({"statement": "The numbers are negative."}, "worded differently"),
    "settings": ({"settings": {"seeds": 4}}, "its settings differ in seeds"),
    "more settings": ({"settings": {"seeds": 3, "steps": 1}}, "its settings differ in steps"),
    "measures": ({"measures": {"mean": Measure.exact(1)}}, "other measures"),
    "data": ({"data": {"identity/default": "0" * 16}}, "the data of identity/default have changed"),
    "data of no task": ({"data": {"identity/old": "0" * 16}}, "the data of identity/old have changed"),
}


@pytest.mark.parametrize("name", STALE)
def test_a_stale_result_is_said_and_its_verdict_is_not_shown(tmp_path: Path, name: str) -> None:
    fields, said = STALE[name]
    ledger.write_entry(tmp_path, entry(**fields))
    (row,), problems = ledger.rows(tmp_path)
    assert problems == []
    assert row.entry is None
    assert said in row.status
    assert "stale" in row.status
    assert not ledger.current(tmp_path, "toy", "laptop")
    ledger.render(tmp_path)
    for file in ("README.md", "index.html"):
        text = (tmp_path / file).read_text()
        assert said in text
        assert "2.0 (" not in text
        assert "<b>replicates</b>" not in text


def test_table_and_page(tmp_path: Path) -> None:
    ledger.write_entry(tmp_path, entry())
    assert ledger.render(tmp_path) == []
    table = (tmp_path / "README.md").read_text()
    figure = "2.0 (-0.5 to 4.5; n = 3): the mean of the numbers"
    assert f"| [toy](#toy) | **cannot be told at this scale** | {figure} | laptop | 1 CPU s, 7 passes |" in table
    assert "| `count` | 3.00 (exact) | how many \\| there are |" in table
    text = (tmp_path / "index.html").read_text()
    assert len(text) < MAX_PAGE_BYTES
    page = Structure(text)
    assert page.open == []
    assert "http:" not in text
    assert "https:" not in text
    assert all(claim in table and claim in text for claim in ledger.OUT_OF_SCOPE), "what is not tried is said"
    assert [attributes["src"][:22] for tag, attributes in page.tags if tag == "img"] == ["data:image/png;base64,"]
    links = {attributes["href"] for tag, attributes in page.tags if tag == "a"}
    assert links == {"#toy-laptop"}
    assert links == {f"#{attributes['id']}" for tag, attributes in page.tags if tag == "section" and "id" in attributes}
    ledger.render(tmp_path)
    assert (tmp_path / "index.html").read_text() == text, "the same entries give the same bytes"


def test_where_a_result_comes_from_and_what_paper_scale_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"identity/default": load_task("identity").fingerprint}
    recipe = Recipe().override({"steps": 1000})
    monkeypatch.setattr(Toy, "recipes", lambda settings: [recipe, recipe])
    monkeypatch.setattr(Toy, "published", "About 2 (Figure 1).")
    made = Toy.scales["laptop"]
    found = replace(Toy(made).run(), data=data, gradient="native (gcc)", earlier=10)
    saved = ledger.Entry.of(Toy, "laptop", found, 1.25, "abc1234")
    assert (saved.seconds, saved.earlier) == (1.2, 10)
    ledger.write_entry(tmp_path, saved)
    assert ledger.render(tmp_path) == []
    flop = 2 * 5 * 2 * 1000 * recipe.macs_per_step()  # five seeds, two recipes
    takes = f"10 runs, {ledger.number(flop / 1e15)} PFLOP in matmuls, {ledger.number(flop / 3.6e16)} GPU-hours at 10 TFLOP/s"
    for file in ("README.md", "index.html"):
        text = (tmp_path / file).read_text()
        said = f"rule of commit abc1234; data identity/default {data['identity/default']}; trained by native (gcc)"
        for part in (said, "About 2 (Figure 1).", takes):
            assert part in text


@pytest.mark.parametrize("text", hostile.MARKUP)
def test_text_that_looks_like_markup_is_shown_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(Toy, "statement", text)
    ledger.write_entry(tmp_path, entry(made_by={"anchorbench": text}))
    ledger.render(tmp_path)
    shown = Structure((tmp_path / "index.html").read_text())
    assert shown.open == []
    assert "".join(shown.text).count(text) >= 2
    assert "<script" not in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    ("value", "words"),
    [(0, "0.00"), (0.5, "0.500"), (-12.3456, "-12.3"), (0.00123, "0.0012"), (4e-14, "4.0e-14"), (123456.0, "1.2e+05")],
)
def test_numbers_in_words(value: float, words: str) -> None:
    assert ledger.number(value) == words


@pytest.mark.parametrize(
    ("measure", "words"),
    [
        ((0.0475, 0.0122, 0.0828, 12), "0.048 (0.012 to 0.083; n = 12)"),
        ((5.0527, 5.0384, 5.0671, 32), "5.053 (5.038 to 5.067; n = 32)"),
        ((120, 80, 160, 9), "120 (80 to 160; n = 9)"),
        ((3, 3, 3, 9), "3.000 (3.000 to 3.000; n = 9)"),
        ((25.0281, 25.0281, 25.0281, 1), "25.0 (exact)"),
    ],
)
def test_measures_in_words(measure: tuple[float, float, float, int], words: str) -> None:
    value, low, high, n = measure
    assert ledger.in_words(Measure(value=value, low=low, high=high, n=n)) == words


# --- The command


def test_reproduce_writes_the_ledger(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "new" / "ledger"
    done = cli("reproduce", "toy", "--out", out)
    assert (done.code, done.err) == (0, "")
    assert "cannot be told at this scale: 2.0 (-0.5 to 4.5; n = 3), the mean of the numbers" in done.out
    assert {path.name for path in out.iterdir()} == {"toy.laptop.json", "README.md", "index.html"}
    assert cli("reproduce", "toy", "--scale", "paper", "--out", out).code == 0
    assert (out / "toy.paper.json").exists()
    assert (out / "README.md").read_text().count("[toy](#toy)") == 2


def test_all_runs_what_has_no_current_result(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "all", {"broken": Broken, "toy": Toy})
    first = cli("reproduce", "all", "--out", tmp_path)
    assert first.code == 2
    require_one_sentence(first.err)
    assert "broken: the numbers are missing" in first.err
    assert (tmp_path / "toy.laptop.json").exists()
    assert "not run yet: `anchorbench reproduce broken`" in (tmp_path / "README.md").read_text()
    monkeypatch.setattr(claims, "all", {"toy": Toy})
    before = (tmp_path / "toy.laptop.json").read_bytes()
    assert "toy: its result at laptop scale is up to date" in cli("reproduce", "all", "--out", tmp_path).out
    assert (tmp_path / "toy.laptop.json").read_bytes() == before
    monkeypatch.setattr(Toy, "version", 2)
    assert "up to date" not in cli("reproduce", "all", "--out", tmp_path).out
    assert ledger.read_entry(tmp_path / "toy.laptop.json").version == 2


def test_runs_are_kept_by_claim_scale_and_version(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[Path | None] = []
    run = Toy.run
    monkeypatch.setattr(Toy, "run", lambda claim: [places.append(claim.runs), run(claim)][1])
    cli("reproduce", "toy", "--out", tmp_path / "ledger", "--runs", tmp_path / "runs")
    monkeypatch.setattr(Toy, "version", 2)
    cli("reproduce", "toy", "--out", tmp_path / "ledger", "--runs", tmp_path / "runs")
    assert places == [tmp_path / "runs" / "toy" / "laptop-1", tmp_path / "runs" / "toy" / "laptop-2"]


def clone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """A repository with the claim's file; what it returns runs git there."""

    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=A", "-c", "user.email=a@b.c")
        done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    folder.mkdir()
    git("init", "-q")
    (folder / "toy.py").write_text("# the rule")
    monkeypatch.setattr("inspect.getfile", lambda claim: str(folder / "toy.py"))
    return git


def test_rules_come_before_runs(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = clone(tmp_path / "clone", monkeypatch)
    inside, outside = tmp_path / "clone" / "ledger", tmp_path / "ledger"

    def commit_of(out: Path) -> str:
        return ledger.read_entry(out / "toy.laptop.json").rule_commit

    refused = cli("reproduce", "toy", "--out", inside)
    assert refused.code == 2
    require_one_sentence(refused.err)
    assert "toy.py has changes that are not committed" in refused.err
    assert not (inside / "toy.laptop.json").exists()
    git("add", "toy.py")
    git("commit", "-q", "-m", "The rule")
    rule = git("rev-parse", "--short", "HEAD")
    assert cli("reproduce", "toy", "--out", inside).code == 0
    assert commit_of(inside) == rule
    (tmp_path / "clone" / "toy.py").write_text("# another rule")
    assert cli("reproduce", "toy", "--out", outside).code == 0
    assert commit_of(outside) == f"{rule}, with changes"


def test_outside_a_clone_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inspect.getfile", lambda claim: str(tmp_path / "toy.py"))
    assert rule_commit(Toy, tmp_path) == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("tyo",), ("unknown claim 'tyo'", "did you mean 'toy'?")),
        (("toy", "--scale", "papr"), ("unknown scale 'papr'", "did you mean 'paper'?", "laptop")),
        (("toy", "--out", "FILE"), ("FILE",)),
    ],
)
def test_bad_input_is_one_sentence(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("FILE").touch()
    refused = cli("reproduce", *arguments)
    assert refused.code == 2
    require_one_sentence(refused.err)
    for part in said:
        assert part in refused.err
    assert [path.name for path in tmp_path.iterdir()] == ["FILE"]


def test_a_file_of_no_claim_is_named(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "old.laptop.json").write_text("{}")
    done = cli("reproduce", "toy", "--out", tmp_path)
    assert done.code == 0
    assert "left out: " in done.out
    assert "old.laptop.json belongs to no known claim" in done.out


# --- What is committed


def test_the_committed_ledger_is_current_and_its_pages_are_made_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    shown, problems = ledger.rows(ROOT / "docs" / "ledger")
    assert problems == []
    assert {row.claim.name for row in shown} == claims.all.keys()
    for row in shown:
        assert row.entry is not None, f"{row.claim.name}: {row.status}"
    assert (ROOT / "docs" / "ledger" / "README.md").read_text() == ledger.markdown(shown)
