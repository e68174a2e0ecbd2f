"""Figures under any matplotlib settings of the user, in three formats, and without ending the job when they fail."""

import json
import subprocess
from pathlib import Path

import matplotlib
import pytest
from conftest import SWEEP, Cli, bytes_of, require_one_sentence
from hypothesis import given
from hypothesis import strategies as st
from processes import child, environment

from anchorbench.show.canvas import FORMATS, parse_formats, plain_matplotlib, save
from anchorbench.show.figures import phase_figure
from anchorbench.show.flow import attention_flow_figure
from anchorbench.show.report import report
from anchorbench.sweeps.run_folder import Run, read_run

MAGIC = {"png": b"\x89PNG", "pdf": b"%PDF-", "svg": b"<?xml"}


@pytest.fixture(scope="module")
def runs(finished_sweep: Path) -> list[Run]:
    return [read_run(path) for path in sorted((finished_sweep / "runs").iterdir())]


@plain_matplotlib()
def draw(path: Path) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2, 2))
    figure.subplots().plot([1, 3], label=r"$\gamma$ of a_b")
    figure.legend()
    return save(figure, path, dpi=40)


def require_format(path: Path) -> bytes:
    """The bytes of a file that is what its suffix says, with text as text in an embedded TrueType font."""
    content, kind = path.read_bytes(), path.suffix[1:]
    assert content.startswith(MAGIC[kind])
    assert (kind == "pdf") == (b"/FontFile2" in content)
    assert (kind == "svg") == (b"<text" in content)
    assert b"/Type3" not in content
    return content


@pytest.mark.parametrize("kind", FORMATS)
def test_the_suffix_says_the_format_and_the_bytes_are_the_same_again(kind: str, tmp_path: Path) -> None:
    first, second = (require_format(draw(tmp_path / f"{i}.{kind}")) for i in range(2))
    assert first == second  # no dates, no random names
    assert {path.name for path in tmp_path.iterdir()} == {f"0.{kind}", f"1.{kind}"}


def test_every_figure_is_what_its_suffix_says(runs: list[Run], tmp_path: Path) -> None:
    require_format(phase_figure(runs, tmp_path / "phase.pdf"))
    require_format(attention_flow_figure(runs[:1], tmp_path / "flow.svg"))


@pytest.mark.parametrize("name", ["x.jpg", "x", "x.PNG", ".png", "x.png.gz"])
def test_another_suffix_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"allowed: a file that ends in \.pdf, \.svg, \.png"):
        draw(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@given(st.lists(st.sampled_from(["pdf", " svg", "png ", "PNG", "jpg", ""]), min_size=1, max_size=4))
def test_formats_are_those_named(names: list[str]) -> None:
    asked = [name.strip() for name in names]
    if set(asked) <= set(FORMATS):
        assert set(parse_formats(",".join(names))) == set(asked)
        assert len(parse_formats(",".join(names))) == len(set(asked))
    else:
        with pytest.raises(ValueError, match="allowed: pdf, svg, png"):
            parse_formats(",".join(names))


USERS = {
    "text.usetex": True,
    "font.family": "No Such Font",
    "font.size": 40,
    "axes.facecolor": "black",
    "figure.dpi": 31,
    "figure.constrained_layout.use": True,
    "savefig.format": "pdf",
    "savefig.bbox": "tight",
    "savefig.transparent": True,
    "svg.fonttype": "path",
    "pdf.fonttype": 3,
    "interactive": True,
    "path.sketch": (1, 100, 2),
    "axes.prop_cycle": matplotlib.cycler(color=["black"]),
    "toolbar": "None",
    "backend": "module://no_such_backend",
}


@pytest.mark.parametrize("kind", FORMATS)
def test_the_users_settings_change_no_figure_and_are_not_changed(tmp_path: Path, kind: str) -> None:
    plain = draw(tmp_path / f"plain.{kind}").read_bytes()
    with matplotlib.rc_context():
        backend = dict.__getitem__(matplotlib.rcParams, "backend")
        try:
            for name, value in USERS.items():
                dict.__setitem__(matplotlib.rcParams, name, value)
            before = dict(matplotlib.rcParams.items())
            assert draw(tmp_path / f"again.{kind}").read_bytes() == plain
            with pytest.raises(ValueError, match="ends in"):
                draw(tmp_path / "again.jpg")
            assert dict(matplotlib.rcParams.items()) == before
        finally:
            dict.__setitem__(matplotlib.rcParams, "backend", backend)


CASES: dict[str, tuple[dict[str, str], bytes | None, bytes | None, str]] = {
    "none": ({}, None, None, ""),
    "of a notebook": ({"MPLBACKEND": "module://matplotlib_inline.backend_inline"}, None, None, "inline"),
    "absent module": ({"MPLBACKEND": "module://no.such.module"}, None, None, "no.such.module"),
    "nonsense backend": ({"MPLBACKEND": "nonsense"}, None, None, ""),
    "usetex and lines that are no settings": ({}, b"text.usetex: True\nfont.family: Nothing\naxes.no: 3\nno colon\n", None, ""),
    "not text": ({}, b"\xff\xfe\x00", None, ""),
    "nonsense, and not text at home": ({"MPLBACKEND": "nonsense"}, None, b"\xff\xfe\x00", ""),
    "settings that cannot be read": ({"MATPLOTLIBRC": "/proc/1/mem"}, None, None, ""),
    "nowhere to write": ({"MPLCONFIGDIR": "/proc/version", "HOME": "/nonexistent", "XDG_CACHE_HOME": ""}, None, None, ""),
}
"""Environment, matplotlibrc here and at home, and the backend that the user has afterwards."""


def test_matplotlib_is_imported_under_any_settings(tmp_path: Path) -> None:
    """The first import, in one process that is forked for each case: same bytes, no word, nothing of the user's changed."""
    given = {name: (environ, rc and rc.hex(), home and home.hex()) for name, (environ, rc, home, _) in CASES.items()}
    done = subprocess.run(
        child("first_imports", tmp_path, json.dumps(given)),
        capture_output=True,
        text=True,
        env={name: value for name, value in environment().items() if not name.startswith("MPL")},
        timeout=180,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told == {name: [0, ""] for name in CASES}
    for name, (*_, backend) in CASES.items():
        assert backend in (tmp_path / name / "backend").read_text(), name
    assert {(tmp_path / name / "x.png").read_bytes() for name in CASES} == {(tmp_path / "none" / "x.png").read_bytes()}


# Commands


@pytest.mark.parametrize("formats", ["pdf", "svg,png"])
def test_run_writes_the_formats_asked_for(cli: Cli, sweep: Path, formats: str) -> None:
    before = {path.name for path in sweep.iterdir()}
    shown = cli(*SWEEP, "--out", sweep, "--figures", formats)
    assert (shown.code, shown.err) == (0, "")
    asked = [sweep / f"phase.{kind}" for kind in formats.split(",")]
    assert f"Figures: {', '.join(map(str, asked))};" in shown.out.replace("\n", " ")
    for path in asked:
        assert path.read_bytes().startswith(MAGIC[path.suffix[1:]])
    assert {path.name for path in sweep.iterdir()} == before | {path.name for path in asked}


@pytest.mark.parametrize("figures", ["x.jpg", "nosuch/x.pdf", "gif", "", "png;pdf", "PDF"])
@pytest.mark.parametrize("command", [SWEEP, ("sweep", "run", "recipe.yaml")])
def test_other_figures_are_refused_before_any_work(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], figures: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text("axes: {seed: 1}\n")
    refused = cli(*command, "--figures", figures, "--out", "out")
    assert (refused.code, refused.out) == (2, "")
    require_one_sentence(refused.err)
    assert f"figures is {figures!r}; allowed: pdf, svg, png" in refused.err
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def break_matplotlib(patch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*args, **kwargs):
        raise error

    patch.setattr("matplotlib.figure.Figure.savefig", fail)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            RuntimeError("Failed to process string with tex because latex could not be found"),
            "Failed to process string with tex because latex could not be found",
        ),
        (OSError(28, "No space left on device"), "No space left on device"),
        (ValueError("two\nlines"), r"two\nlines"),
        (AssertionError(), "AssertionError"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_a_failed_figure_is_a_sentence_after_the_results(
    cli: Cli, sweep: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    (sweep / "results.jsonl").unlink()
    before = bytes_of(sweep)
    with monkeypatch.context() as patch:
        break_matplotlib(patch, error)
        shown = cli(*SWEEP, "--out", sweep, "--figures", "png,pdf")
    assert (shown.code, shown.err) == (0, "")
    table, _, rest = shown.out.partition("Results: ")
    assert "verdicts" in table
    *_, png, pdf = rest.strip().splitlines()
    assert png == f"figure {sweep / 'phase.png'} was not drawn: {said}"
    assert pdf == f"figure {sweep / 'phase.pdf'} was not drawn: {said}"
    assert (sweep / "results.jsonl").exists()
    assert {name: content for name, content in bytes_of(sweep).items() if name != "results.jsonl"} == before


def test_a_report_without_its_figure(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = sorted((sweep / "runs").iterdir())
    monkeypatch.setattr(
        "anchorbench.show.report.most_different", lambda runs, known: [run for run in runs if run.path == folders[0]]
    )
    monkeypatch.setattr("anchorbench.show.report._probes", lambda shown: ([], []))
    whole = report(sweep, sweep / "whole.html")
    break_matplotlib(monkeypatch, RuntimeError("no latex"))
    page, [problem] = report(sweep)
    assert whole[1] == []
    assert "data:image/svg" in whole[0].read_text()
    assert "data:image/svg" not in page.read_text()
    assert "attention_flow.svg was not drawn: no latex" in problem


@pytest.mark.parametrize("command", ["report", "validate", "fit", "bench"])
@pytest.mark.parametrize("place", ["nosuch/x", "folder", "file/x"])
def test_a_file_that_cannot_be_written_is_refused_before_the_work(
    cli: Cli, sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, place: str
) -> None:
    def work(*args, **kwargs):
        raise AssertionError("it works before it has looked at its output")

    names = ("show.report._probes", "show.report.conditions", "inspect.validation.validate", "cli.validation.read_runs")
    for name in (*names, "bench.train.bench_train"):
        monkeypatch.setattr(f"anchorbench.{name}", work)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    out = tmp_path / place
    arguments = {
        "report": ("report", sweep, "--out", out),
        "validate": ("probe", "validate", "--json", out),
        "fit": ("probe", "fit", sweep, "--out", out),
        "bench": ("bench", "train", "--json", out),
    }
    before = bytes_of(tmp_path)
    refused = cli(*arguments[command])
    assert (refused.code, refused.out) == (2, "")
    require_one_sentence(refused.err)
    assert str(out if place == "folder" else out.parent) in refused.err
    assert bytes_of(tmp_path) == before
