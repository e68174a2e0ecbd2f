"""The page of one sweep: what its cells, lines and bars show, and that it is as harmless as the leaderboard's."""

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import Structure, Watched
from PIL import Image

from anchorbench.probes import list_probes, run_probe
from anchorbench.show import report as module
from anchorbench.show.report import report
from anchorbench.sweeps.run_folder import Run, read_run


@pytest.fixture
def grid(finished_sweep: Path, monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """32 runs over gamma, weight decay, norm and two seeds: the finished ones, with other recipes and verdicts."""
    one = read_run(sorted((finished_sweep / "runs").iterdir())[0])
    runs: list[Run] = []
    for gamma in (0.5, 0.7):
        for decay in (0.0, 0.1, 1.0, 3.0):
            for norm in ("pre", "post"):
                for seed in (0, 1):
                    fields = {"init.gamma": gamma, "optimizer.weight_decay": decay, "model.norm": norm, "seed": seed}
                    inferential = gamma == 0.7 and (decay > 0 or seed == 0)
                    verdict = "inferential" if inferential else "memorizing" if norm == "pre" else "underfit"
                    told = {"verdict": verdict, "inferential": 0.75 if inferential else 0.25, "deviations": {0: 3, -6: 1, 40: 4}}
                    result = one.result.model_copy(update=told)
                    runs.append(Run(path=one.path, recipe=one.recipe.override(fields), result=result))
    monkeypatch.setattr(module, "_read", lambda folder: (runs, []))
    monkeypatch.setattr("anchorbench.show.report.clearest", lambda runs: [])  # their weights are not of these recipes
    return runs


def cells(text: str) -> list[tuple[str, str, str]]:
    """(title, class, number) of each cell, in the page's order."""
    pattern = r'<g><title>(.*?)</title>\s*<rect class="(\w+)"[^>]*>\s*<text[^>]*>(.*?)</text></g>'
    return re.findall(pattern, text, re.DOTALL)


def test_a_cell_is_the_members_at_its_place(grid: list[Run], tmp_path: Path) -> None:
    page, _ = report(tmp_path, tmp_path / "a.html", x="init.gamma", y="optimizer.weight_decay", panels="model.norm")
    found = cells(page.read_text())
    assert len(found) == 2 * 4 * 2
    # The first panel is pre-LN (in the order of the runs); rows from the lowest weight decay, in each gamma 0.5 first.
    assert found[:4] == [
        ("2 memorizing", "memorizing", "25%"),
        ("1 inferential, 1 memorizing", "inferential", "50%"),
        ("2 memorizing", "memorizing", "25%"),
        ("2 inferential", "inferential", "75%"),
    ]
    assert found[8][0] == "2 underfit"


def test_axes_that_are_not_shown_are_pooled_and_named(grid: list[Run], tmp_path: Path) -> None:
    page, _ = report(tmp_path, tmp_path / "a.html", x="optimizer.weight_decay", y="model.norm", panels="init.gamma")
    assert len(cells(page.read_text())) == 16
    assert "share a cell" not in page.read_text()
    for path in ("model.n_layer", "seed", "gamma"):
        with pytest.raises(ValueError, match=r"allowed: init\.gamma"):
            report(tmp_path, tmp_path / "b.html", x=path)


def test_an_axis_stands_once(grid: list[Run], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"axes are init\.gamma, init\.gamma; allowed: each axis once"):
        report(tmp_path, tmp_path / "a.html", x="init.gamma", panels="init.gamma")
    assert not (tmp_path / "a.html").exists()


def test_all_tasks_of_a_sweep_are_in_its_title(grid: list[Run], tmp_path: Path) -> None:
    other = grid[7].result.model_copy(update={"variant": "conflict"})
    grid[7] = grid[7].model_copy(update={"result": other})
    page, _ = report(tmp_path, tmp_path / "a.html")
    assert "<h1>composite, heldout-both and composite, conflict</h1>" in page.read_text()


def test_the_third_axis_is_pooled_when_there_is_a_fourth(grid: list[Run], tmp_path: Path) -> None:
    for number, run in enumerate(grid):
        grid[number] = run.model_copy(update={"recipe": run.recipe.override({"optimizer.lr": 0.001 * (1 + number % 2)})})
    page, _ = report(tmp_path, tmp_path / "a.html")
    assert "Runs that differ in optimizer.weight_decay share a cell" in page.read_text()
    assert sum(int(count) for title, _, _ in cells(page.read_text()) for count in re.findall(r"\d+", title)) == 32


def test_histogram_bars_are_shares_of_all_answers(grid: list[Run], tmp_path: Path) -> None:
    page, _ = report(tmp_path, tmp_path / "a.html")
    text = page.read_text()
    bars = re.findall(r"<title>(-?\d+): (\d+)%</title>", text)
    shown = {(value, share) for value, share in bars if share != "0"}
    assert shown == {("0", "38"), ("-6", "12")}  # 3 and 1 of 8
    assert text.count("50% beyond") == 2  # 4 of 8, at either gamma


def test_a_real_sweep(finished_sweep: Path, tmp_path: Path) -> None:
    page, problems = report(finished_sweep, tmp_path / "real.html")
    text = page.read_text()
    found = Structure(text)
    assert problems == []
    assert found.open == []
    assert "http:" not in text
    assert "https:" not in text
    assert text.count("<polyline") == 4
    assert len(cells(text)) == 2
    assert "img" not in [tag for tag, _ in found.tags]  # no member of the tiny sweep fits


def test_the_clearest_members_attention_is_shown(sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anchorbench.show.report.clearest", lambda runs: runs[:1])
    page, _ = report(sweep, tmp_path / "flow.html")
    (picture,) = re.findall(r'<img src="data:image/png;base64,([^"]+)"', page.read_text())
    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        assert np.asarray(image.convert("L")).std() > 10
    assert len(page.read_bytes()) < 1_000_000


def test_every_probe_of_the_clearest_members_is_a_row(sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the probes themselves, and the members' forecast above the table."""
    shown: list[Run] = []
    monkeypatch.setattr("anchorbench.show.report.clearest", lambda runs: shown.extend(runs[1:3]) or runs[1:3])
    underfit, _ = report(sweep, tmp_path / "underfit.html")
    assert "patching" not in underfit.read_text()
    shown.clear()
    two = {name: list_probes()[name] for name in ("commutativity", "patching")}
    monkeypatch.setattr("anchorbench.show.examine.list_probes", lambda: two)
    monkeypatch.setattr("anchorbench.show.report.list_probes", lambda: two)
    monkeypatch.setattr("anchorbench.verdict.FIT", 0.0)  # of six steps of training these members count as fit
    page, _ = report(sweep, tmp_path / "probes.html")
    rows = re.findall(r'<td class="text">([a-z_0-9.]+)</td>((?:<td>.*?</td>)+)</tr>', page.read_text())
    told = {name: re.findall(r"(-?[0-9.]+) <", cells) for name, cells in rows}
    for probe in two:
        expected = [run_probe(probe, run, run.recipe.load_task()).scores() for run in shown]
        for name in expected[0]:
            assert told[name] == [f"{scores[name].value:.2f}" for scores in expected]
    assert page.read_text().count("cannot be told (accuracy") == 2  # they are not fit


def test_a_damaged_run_is_named_and_left_out(sweep: Path) -> None:
    lost = sorted((sweep / "runs").iterdir())[0]
    (lost / "result.json").write_text("{")
    page, problems = report(sweep)
    assert page == sweep / "report.html"
    assert len(problems) == 1
    assert lost.name in problems[0]
    assert page.read_text().count("<polyline") == 3


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no finished run"):
        report(tmp_path)


def test_names_from_a_recipe_are_escaped(grid: list[Run], tmp_path: Path) -> None:
    """A task's configuration may hold any text."""
    text = "</title><script>alert(1)</script>"
    for number, run in enumerate(grid):
        result = run.result.model_copy(update={"variant": text, "verdict": text})
        grid[number] = run.model_copy(update={"result": result})
    page, _ = report(tmp_path, tmp_path / "a.html")
    assert "<script>alert" not in page.read_text()
    assert Structure(page.read_text()).open == []


def test_in_a_browser_it_is_quiet_sorts_and_fits_a_phone(browser: Any, sweep: Path) -> None:
    page, _ = report(sweep)
    watched = Watched(browser, page, viewport={"width": 360, "height": 740})
    watched.header("init.gamma").locator("button").click()
    assert watched.column(0) == ["0.5", "0.7"]
    watched.header("init.gamma").locator("button").click()
    assert watched.column(0) == ["0.7", "0.5"]
    assert watched.tab.evaluate("document.documentElement.scrollWidth") <= 360
    requested = [url for url in watched.requests if not url.startswith("data:")]
    assert (watched.said, requested) == ([], [watched.address])
    watched.context.close()
