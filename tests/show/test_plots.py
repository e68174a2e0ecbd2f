"""The figures: written whole or not at all, of a sane size, and showing what they say."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, bytes_of
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from anchorbench import palette
from anchorbench.show.circuits import Flow, difference, flow_of, most_different
from anchorbench.show.figures import NO_PHASE, WIDTHS, _phase_panel, phase_figure, plot_phase
from anchorbench.show.flow import _compared, _sequences, attention_flow_figure, flow_panel
from anchorbench.sweeps.run_folder import Run, read_run
from anchorbench.sweeps.runner import Sweep, SweepFolder, run_sweep
from anchorbench.sweeps.summary import clearest, conditions
from anchorbench.task import SPLITS
from anchorbench.verdict import Share

CASES = {
    "heldout-both": {"variant": "heldout-both"},
    "conflict": {"variant": "conflict"},
    "conflict-control": {"variant": "conflict-control"},
    "identity": {"task": "identity", "variant": "default"},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Run]]:
    """Each case over two gammas and two seeds; `norms` over both norms too."""
    axes = {"init.gamma": (0.5, 0.7), "seed": (0, 1)}
    sweeps = {name: Sweep(TINY.override(fields), axes) for name, fields in CASES.items()}
    sweeps["norms"] = Sweep(TINY.override(CASES["heldout-both"]), {"model.norm": ("pre", "post"), **axes})
    sweeps["one"] = Sweep(TINY.override(CASES["conflict"]), {"init.gamma": (0.5,), "seed": (0,)})
    root = tmp_path_factory.mktemp("plots")
    return {name: run_sweep(sweep, SweepFolder(root / name, sweep)) for name, sweep in sweeps.items()}


def picture(path: Path) -> np.ndarray:
    """The pixels `[height, width, 3]` of a PNG that opens, is not blank and has a sane size."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"))
    height, width, _ = pixels.shape
    assert 400 < height < 4000
    assert 600 < width < 6000
    assert 1_000 < path.stat().st_size < 2_000_000
    assert pixels.std() > 10
    return pixels


def with_verdict(run: Run, verdict: str, inferential: float) -> Run:
    """The run as if it had ended so."""
    change = {"verdict": verdict, "inferential": inferential, "accuracy_iid": Share(99, 100), "composes": Share(1, 2)}
    return run.model_copy(update={"result": run.result.model_copy(update=change)})


@pytest.mark.parametrize("name", [*CASES, "norms", "one"])
def test_a_phase_figure(runs: dict[str, list[Run]], name: str, tmp_path: Path) -> None:
    assert phase_figure(runs[name], tmp_path / "phase.png") == tmp_path / "phase.png"
    picture(tmp_path / "phase.png")
    assert [path.name for path in tmp_path.iterdir()] == ["phase.png"]


def test_a_panel_for_each_norm(runs: dict[str, list[Run]], tmp_path: Path) -> None:
    one = picture(phase_figure(runs["heldout-both"], tmp_path / "one.png"))
    two = picture(phase_figure(runs["norms"], tmp_path / "two.png"))
    assert two.shape == one.shape  # as wide as a paper's text
    narrow = picture(phase_figure(runs["norms"], tmp_path / "narrow.png", columns=1))
    assert narrow.shape[0] / narrow.shape[1] > 2 * two.shape[0] / two.shape[1]  # one panel above the other
    with Image.open(tmp_path / "narrow.png") as image:
        assert image.width / image.info["dpi"][0] == pytest.approx(WIDTHS[1], abs=0.01)


def test_phases_are_named_by_the_most_frequent_verdict(runs: dict[str, list[Run]]) -> None:
    """Gammas 0.5 and 0.7, each with two seeds; where no verdict has more than half, the strip is grey."""
    a, b, c, d = runs["heldout-both"]
    colors = {name: look.color for name, look in palette.VERDICTS.items()} | {"seeds differ": NO_PHASE.color}
    for ended, names in [
        (("memorizing", "memorizing", "inferential", "inferential"), ("memorizing", "inferential")),
        (("underfit", "memorizing", "underfit", "underfit"), ("seeds differ", "underfit")),
        (("mixed", "mixed", "mixed", "mixed"), ("mixed",)),
    ]:
        shown = [with_verdict(run, verdict, 0.5) for run, verdict in zip((a, b, c, d), ended, strict=True)]
        axis = Figure().subplots()
        _phase_panel(axis, conditions(shown), 6.0)
        assert [to_hex(span.get_facecolor()) for span in axis.patches] == [colors[name] for name in names]
        assert [span.get_x() for span in axis.patches] == pytest.approx([0.4, 0.6][: len(names)])
        assert [text.get_text() for text in axis.texts] == list(names)
        assert len({text.get_position()[1] for text in axis.texts}) == 1
        dots = np.concatenate([dots.get_offsets() for dots in axis.collections if len(dots.get_offsets()) == 2])
        assert len(dots) == 2 * 4  # every seed's iid and held-out accuracy
        labels = {line.get_label(): line for line in axis.lines}
        assert labels["chance, 0.013"].get_ydata() == pytest.approx([1 / 80] * 2)
        assert labels["held out, composed"].get_marker() != labels["chance, 0.013"].get_marker()


def test_a_phase_too_narrow_for_its_name_has_its_marker(runs: dict[str, list[Run]]) -> None:
    a, b, c, d = runs["heldout-both"]
    ended = ("memorizing", "memorizing", "inferential", "inferential")
    axis = Figure().subplots()
    _phase_panel(axis, conditions([with_verdict(run, verdict, 0.5) for run, verdict in zip((a, b, c, d), ended, strict=True)]), 0.8)
    assert list(axis.texts) == []
    markers = [line.get_marker() for line in axis.lines if len(line.get_xdata()) == 1]
    assert markers == [palette.VERDICTS["memorizing"].marker, palette.VERDICTS["inferential"].marker]


def test_a_phase_plot_in_other_colours(runs: dict[str, list[Run]]) -> None:
    axis = Figure().subplots()
    plot_phase(runs["heldout-both"], axis, palette={"inferential": "#123456"})
    (line,) = [line for line in axis.lines if line.get_label() == "held out, composed"]
    assert line.get_color() == "#123456"
    with pytest.raises(ValueError, match="palette has 'composed'; allowed: accuracy_iid, inferential, ordered, symmetric"):
        plot_phase(runs["heldout-both"], axis, palette={"composed": "red"})


@pytest.mark.parametrize("name", list(CASES))
def test_an_attention_flow_figure(runs: dict[str, list[Run]], name: str, tmp_path: Path) -> None:
    one = picture(attention_flow_figure(runs[name][:1], tmp_path / "one.png"))
    two = picture(attention_flow_figure(runs[name][:2], tmp_path / "two.png"))
    assert two.shape[1] == one.shape[1]
    narrow = picture(attention_flow_figure(runs[name][:2], tmp_path / "narrow.png", columns=1))
    assert narrow.shape[0] / narrow.shape[1] > 1.5 * two.shape[0] / two.shape[1]


def test_the_flow_figure_shows_a_sequence_that_neither_member_has_seen(
    runs: dict[str, list[Run]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In conflict-control, seeds hold out different ordinary pairs."""
    shown = list[np.ndarray]()
    monkeypatch.setattr("anchorbench.show.flow.flow_panel", lambda axis, patterns, task, tokens, over_heads: shown.append(tokens))
    pair = runs["conflict-control"][:2]
    assert len({run.result.task_fingerprint for run in pair}) == 2
    attention_flow_figure(pair, tmp_path / "flow.png")
    for run in pair:
        assert (run.recipe.load_task().answer(np.stack(shown)).split == SPLITS.index("ood")).all()


def test_attention_is_averaged_over_sequences_of_one_layout(runs: dict[str, list[Run]]) -> None:
    pair = runs["heldout-both"][:2]
    tokens = _sequences(pair)
    assert len(tokens) > 50
    assert len(np.unique(tokens, axis=0)) == len(tokens)
    marks = pair[0].recipe.load_task().token_positions(tokens)
    assert {name: np.unique(at).tolist() for name, at in marks.items()} == {"key": [3], "first anchor": [4], "second anchor": [5]}


def test_a_flow_panel_draws_what_reaches_the_answer(runs: dict[str, list[Run]]) -> None:
    """Key at 2, anchors at 3 and 4. Layer 1: position 3 reads the key. Layer 2: the last one reads 3, position 4 reads 0."""
    task = runs["heldout-both"][0].recipe.load_task()
    tokens = np.array([50, 51, 60, 1, 2, 52, 53, 54, 55])
    first, second = np.eye(9), np.eye(9)
    first[3] = np.eye(9)[2]
    second[8] = np.eye(9)[3]
    second[4] = np.eye(9)[0]
    axis = Figure().subplots()
    flow_panel(axis, [first, second], task, tokens)
    lines = {tuple(line.get_xdata()): line for line in axis.lines if line.get_xdata()[0] != line.get_xdata()[1]}
    assert set(lines) == {(2, 3), (3, 8), (0, 4)}
    assert lines[2, 3].get_color() == palette.PARTS["key"][0]  # the key's colour
    assert lines[3, 8].get_color() == palette.PARTS["anchor"][0]  # an anchor's
    assert lines[0, 4].get_color() == "#dddddd"  # position 4 of the last layer is not asked
    assert [text.get_text() for text in axis.texts][:9] == task.text(tokens[None])[0].split()


def test_what_reaches_the_answer_follows_from_all_heads(runs: dict[str, list[Run]]) -> None:
    """One head reads the key at an anchor, the other reads the anchor at the end: only together do they reach the answer."""
    task = runs["heldout-both"][0].recipe.load_task()
    tokens = np.array([50, 51, 60, 1, 2, 52, 53, 54, 55])
    one, other = [np.eye(9), np.eye(9)], [np.eye(9), np.eye(9)]
    one[0][3] = np.eye(9)[2]
    other[1][8] = np.eye(9)[3]
    mean = [(a + b) / 2 for a, b in zip(one, other, strict=True)]
    for over_heads, color in ((None, "#dddddd"), (mean, palette.PARTS["key"][0])):
        axis = Figure().subplots()
        flow_panel(axis, one, task, tokens, over_heads)
        assert {tuple(line.get_xdata()): line.get_color() for line in axis.lines}[2, 3] == color


def fake_flow(**scores: float) -> Flow:
    return Flow((), (), np.zeros((1, 1, 1)), scores)


def test_the_two_runs_differ_most_in_attention(runs: dict[str, list[Run]]) -> None:
    """By hand: of the inferential a, b and the memorizing c, d, a and d differ most; verdicts alone would choose b and c."""
    a, b, c, d = runs["heldout-both"]
    shares = {"inferential": (0.85, 0.99), "memorizing": (0.0, 0.1)}
    what = [(verdict, share) for verdict, both in shares.items() for share in both]
    ended = [with_verdict(run, *each) for run, each in zip((a, b, c, d), what, strict=True)]
    to_key = zip((a, b, c, d), (0.0, 0.4, 0.5, 0.9), strict=True)
    flows = {run.result.run_id: fake_flow(key_to_last=at, key_to_anchors=0.5) for run, at in to_key}
    assert most_different(ended, flows) == [ended[0], ended[3]]
    alike = dict.fromkeys(flows, fake_flow(key_to_last=0.5))
    assert most_different(ended, alike) == [ended[1], ended[2]]
    assert most_different([ended[0]], flows) == [ended[0]]
    assert most_different([a], {}) == []  # underfit
    assert difference(flows[a.result.run_id], flows[d.result.run_id]) == ("key_to_last", 0.9)
    assert difference(None, flows[d.result.run_id]) == ("", 0.0)


def test_runs_that_attention_does_not_tell_apart_are_patched(runs: dict[str, list[Run]], monkeypatch: pytest.MonkeyPatch) -> None:
    pair = runs["heldout-both"][:2]
    flows = iter([fake_flow(**{"key_to_last.1": 0.9}), fake_flow(**{"key_to_last.1": 0.1})])
    monkeypatch.setattr("anchorbench.show.flow.flow_of", lambda run: next(flows))
    assert _compared(pair) == ([], "Attention from the last position to the key, layer 2: 0.90 against 0.10")
    monkeypatch.setattr("anchorbench.show.flow.flow_of", flow_of)
    scores, sentence = _compared([pair[0], pair[0]])
    assert sentence == "Attention does not tell these runs apart (scores differ by at most 0.00); nor does patching"
    assert scores[0] == scores[1]
    assert "parts_carry.0" in scores[0]


def test_the_clearest_members(runs: dict[str, list[Run]]) -> None:
    a, b, c, d = runs["heldout-both"]
    assert clearest([a, b, c, d]) == []  # all underfit
    ended = [with_verdict(a, "mixed", 0.4), with_verdict(b, "inferential", 0.9), with_verdict(c, "memorizing", 0.1), d]
    assert clearest(ended) == [ended[1], ended[2]]
    assert clearest([with_verdict(a, "mixed", 0.4), d]) == [with_verdict(a, "mixed", 0.4)]
    assert clearest(runs["identity"]) == []


@pytest.mark.parametrize("old", [None, b"the old figure"])
def test_a_failed_save_leaves_what_was_there(
    runs: dict[str, list[Run]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bytes | None
) -> None:
    if old is not None:
        (tmp_path / "figure.png").write_bytes(old)
    before = bytes_of(tmp_path)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    for draw in (phase_figure, attention_flow_figure):
        with pytest.raises(OSError, match="No space left"):
            draw(runs["heldout-both"][:2], tmp_path / "figure.png")
    assert bytes_of(tmp_path) == before


def test_figures_are_the_same_bytes_again(runs: dict[str, list[Run]], tmp_path: Path) -> None:
    again = [read_run(run.path) for run in runs["conflict"]]
    first, second = (phase_figure(shown, tmp_path / f"{i}.png").read_bytes() for i, shown in enumerate((runs["conflict"], again)))
    assert first == second
