"""The page of one sweep: what its data, tables and charts say, and that it is as harmless as the leaderboard's."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY, patch_training
from pages import Structure, Watched

from anchorbench.cli.plan import load_sweep, make_cut
from anchorbench.probes import list_probes, run_probe
from anchorbench.recipe import Recipe
from anchorbench.show import report as module
from anchorbench.show.answers import deviation_names
from anchorbench.show.facts import facts, recipe_yaml
from anchorbench.show.report import MAX_BYTES, MAX_RUNS, report
from anchorbench.show.scores import ARROWS, beyond_control, meaning
from anchorbench.show.source import Gathered, gather
from anchorbench.sweeps.folder import SweepFolder
from anchorbench.sweeps.grid import Sweep
from anchorbench.sweeps.plan import write_plan
from anchorbench.sweeps.run_folder import Run, read_run
from anchorbench.sweeps.runner import Progress, run_sweep
from anchorbench.task import load_task
from anchorbench.train.loop import PausedError

TWO_PER_CELL = 32
"""Runs of `grid`."""


def show_only(patch: pytest.MonkeyPatch, runs: list[Run]) -> None:
    """Has the page show these runs, whose weights are not of their recipes."""
    patch.setattr(module, "gather", lambda folder: Gathered(runs, [], None, []))
    patch.setattr(module, "most_different", lambda runs, known: [])
    patch.setattr(module, "flow_of", lambda run: None)


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
                    recipe = one.recipe.override(fields)
                    inferential = gamma == 0.7 and (decay > 0 or seed == 0)
                    verdict = "inferential" if inferential else "memorizing" if norm == "pre" else "underfit"
                    told = {"verdict": verdict, "inferential": 0.75 if inferential else 0.25, "deviations": {0: 3, -6: 1, 40: 4}}
                    result = one.result.model_copy(update={**told, "run_id": recipe.run_id})
                    runs.append(Run(path=one.path, recipe=recipe, result=result))
    show_only(monkeypatch, runs)
    return runs


@pytest.fixture
def paused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep of four runs that stopped at step 4 of 6, with nothing finished."""
    sweep = Sweep(TINY, {"init.gamma": (0.5, 0.7), "seed": (0, 1)})
    folder = SweepFolder(tmp_path / "paused", sweep)
    write_plan(sweep, folder, make_cut(sweep, 1, None, None, []))
    patch_training(monkeypatch, FIRST_EVALUATION=2, EVALUATIONS=3)

    def stop(progress: Progress) -> None:
        if progress.step >= 4:
            raise PausedError

    with pytest.raises(PausedError):
        run_sweep(sweep, folder, stop)
    return folder.out


def data_of(page: Path) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    return json.loads(text)


def outside_scripts(text: str) -> str:
    return re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)


def test_a_condition_is_its_members(grid: list[Run], tmp_path: Path) -> None:
    page, _ = report(tmp_path, tmp_path / "a.html", y="optimizer.weight_decay")
    data = data_of(page)
    assert data["axes"] == {
        "init.gamma": ["0.5", "0.7"],
        "model.norm": ["pre", "post"],
        "optimizer.weight_decay": ["0", "0.1", "1", "3"],
    }
    assert (data["x"], data["y"]) == ("init.gamma", "optimizer.weight_decay")
    counted = {tuple(places): (verdicts, shares, count, len(runs)) for places, verdicts, shares, count, runs in data["conditions"]}
    assert len(counted) == 16
    assert counted[0, 0, 0] == ({"memorizing": 2}, 0.5, 2, 2)
    assert counted[1, 0, 0] == ({"inferential": 1, "memorizing": 1}, 1.0, 2, 2)
    assert counted[1, 1, 3] == ({"inferential": 2}, 1.5, 2, 2)


def test_only_axes_that_vary_are_allowed_once(grid: list[Run], tmp_path: Path) -> None:
    for path in ("model.n_layer", "seed", "gamma"):
        with pytest.raises(ValueError, match=r"allowed: init\.gamma"):
            report(tmp_path, tmp_path / "b.html", x=path)
    with pytest.raises(ValueError, match=r"axes are init\.gamma, init\.gamma; allowed: each axis once"):
        report(tmp_path, tmp_path / "a.html", x="init.gamma", y="init.gamma")
    assert list(tmp_path.iterdir()) == []


def test_all_tasks_of_a_sweep_are_in_its_title(grid: list[Run], tmp_path: Path) -> None:
    other = grid[7].result.model_copy(update={"variant": "conflict"})
    grid[7] = grid[7].model_copy(update={"result": other})
    page, _ = report(tmp_path, tmp_path / "a.html")
    assert "<h1>composite, heldout-both and composite, conflict</h1>" in page.read_text()


def test_held_out_answers_are_named(grid: list[Run], tmp_path: Path) -> None:
    """Deviations 0, -6 and 40 of pairs that add -10: composed, what (4,4) adds, and nothing that a pair adds."""
    answers = data_of(report(tmp_path, tmp_path / "a.html")[0])["answers"]
    assert len(answers["counts"]) == TWO_PER_CELL
    for counts in answers["counts"]:
        assert {answers["names"][name]: count for name, count in counts} == {
            "composed": 3, "(4,4) said instead": 1, "another answer": 4,
        }  # fmt: skip


def test_names_of_deviations() -> None:
    """By hand, of anchors that add 5, 1, -2 and -8, where (3,4) and (4,3) are asked."""
    both, conflict = (deviation_names(load_task("composite", variant)) for variant in ("heldout-both", "conflict"))
    assert both[0] == conflict[0] == "composed"
    assert both[-6] == "(4,4) said instead"
    assert both[3] == "(2,4) or (4,2) said instead"
    assert both[10] == "the key itself"
    assert 4 not in both
    assert conflict[4] == "as the exception"
    assert conflict[2] == "the value after first anchor"  # 4 alone adds -8
    rotated = deviation_names(load_task("composite", "conflict-control"))  # asks pairs that add different numbers
    assert set(rotated) == {0, 4}
    assert deviation_names(load_task("identity")) == {}


def test_a_real_sweep(finished_sweep: Path, tmp_path: Path) -> None:
    page, problems = report(finished_sweep, tmp_path / "real.html")
    text = page.read_text()
    data = data_of(page)
    assert problems == []
    assert Structure(text).open == []
    assert "http:" not in outside_scripts(text)
    assert "https:" not in outside_scripts(text)
    assert [len(line[1]) for line in data["trajectories"]["lines"]] == [len(data["trajectories"]["steps"][0])] * 4
    assert len(data["attention"]["runs"]) == 4
    assert "<img" not in outside_scripts(text)  # no member of the tiny sweep fits
    runs = {run.run_id: run for run in map(_result, (finished_sweep / "runs").iterdir())}
    assert {run for run, _ in data["runs"]} == runs.keys()


def _result(folder: Path) -> Any:
    return read_run(folder).result


def test_attention_is_in_hundredths_and_adds_up(finished_sweep: Path, tmp_path: Path) -> None:
    found = data_of(report(finished_sweep, tmp_path / "a.html")[0])["attention"]
    assert found["readers"] == ["first anchor", "second anchor", "last position"]
    for shares in found["runs"].values():
        table = np.reshape(shares, (found["layers"], 3, len(found["sources"])))
        assert np.abs(table.sum(-1) - 100).max() <= 2  # rounding


def test_every_probe_of_the_runs_shown_is_a_row(sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the probes themselves; the members' forecast stands above the table."""
    monkeypatch.setattr("anchorbench.show.examine._forecast", lambda inside, task: "it takes seconds")
    shown = gather(sweep).finished[1:3]
    monkeypatch.setattr(module, "most_different", lambda runs, known: shown)
    underfit, _ = report(sweep, tmp_path / "underfit.html")
    assert "anchors_carry" not in underfit.read_text()
    two = {name: list_probes()[name] for name in ("commutativity", "patching")}
    monkeypatch.setattr("anchorbench.show.examine.list_probes", lambda: two)
    monkeypatch.setattr("anchorbench.show.report.list_probes", lambda: two)
    monkeypatch.setattr("anchorbench.verdict.FIT", 0.0)  # of six steps of training these members count as fit
    page, _ = report(sweep, tmp_path / "probes.html")
    rows = re.findall(r'<td class="text"><code>([a-z_0-9.]+)</code>.*?</td>((?:<td[^>]*>.*?</td>)+)</tr>', page.read_text())
    told = {name: re.findall(r"(-?[0-9.]+) <", cells) for name, cells in rows}
    for probe in two:
        expected = [run_probe(probe, run, run.recipe.load_task()).scores() for run in shown]
        for name in expected[0]:
            assert told[name] == [f"{scores[name].value:.2f}" for scores in expected]
            beyond = beyond_control(expected[0][name])
            assert (("▲" in dict(rows)[name].split("</td>")[0]), beyond == "above") in [(True, True), (False, False)]
    assert page.read_text().count("none (it takes seconds)") == 2


def test_every_score_has_a_sentence(finished_sweep: Path) -> None:
    run = gather(finished_sweep).finished[0]
    task = load_task("composite", "conflict")
    for probe in list_probes():
        for name in run_probe(probe, run, task).scores():
            found = meaning(probe, name)
            assert found is not None, (probe, name)
            assert found.words.startswith(found.sentence)
            assert ARROWS[found.direction] in found.words
    assert meaning("someone's", "score") is None


def test_a_damaged_trajectory_is_named_and_left_out(sweep: Path) -> None:
    lost = sorted((sweep / "runs").iterdir())[0]
    (lost / "trajectory.jsonl").write_text("{")
    page, problems = report(sweep)
    assert page == sweep / "report.html"
    assert len(problems) == 1
    assert lost.name in problems[0]
    lines = data_of(page)["trajectories"]["lines"]
    assert sum(line is None for line in lines) == 1
    assert len(lines) == 4


def test_a_sweep_in_training(paused: Path) -> None:
    """Nothing is finished: the rows are those of the checkpoint, with their place on the axes from the plan."""
    found = gather(paused)
    assert (found.finished, found.planned, found.problems) == ([], 4, [])
    assert {run.step for run in found.training} == {4}
    assert {(run.recipe.init.gamma, run.recipe.seed) for run in found.training if run.recipe} == {
        (gamma, seed) for gamma in (0.5, 0.7) for seed in (0, 1)
    }
    page, problems = report(paused)
    assert problems == []
    text = page.read_text()
    assert Structure(text).open == []
    assert "0 of 4 runs are finished, 4 in training" in text
    assert text.count("in training, step 4: underfit so far") == 4
    assert "<h1>composite, heldout-both</h1>" in text
    assert data_of(page)["axes"] == {"init.gamma": ["0.5", "0.7"]}
    assert [len(line[1]) for line in data_of(page)["trajectories"]["lines"]] == [2] * 4


def test_a_half_written_checkpoint_is_left_out(paused: Path) -> None:
    (path,) = (paused / "checkpoints").glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:200])
    assert gather(paused).training == []
    report(paused)


def test_a_folder_without_a_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no sweep"):
        report(tmp_path)


def test_names_from_a_recipe_are_escaped(grid: list[Run], tmp_path: Path) -> None:
    """A task's configuration may hold any text."""
    text = "</title></script><script>alert(1)</script>"
    for number, run in enumerate(grid):
        result = run.result.model_copy(update={"variant": text, "verdict": text})
        grid[number] = run.model_copy(update={"result": result})
    page, _ = report(tmp_path, tmp_path / "a.html")
    assert "<script>alert" not in page.read_text()
    assert Structure(page.read_text()).open == []
    assert set(data_of(page)["conditions"][0][1]) == {text}


def test_a_page_of_many_runs_is_small(grid: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 runs with trajectories, as long as those of a real run, fit; of 1,100, the table leaves some out, the diagram none."""
    point = grid[0].trajectory()[0]
    steps = [50, 71, 102, 145, 207, 296, 423, 603, 860, 1228, 1752, 2500]
    long = [{**point, "step": step, "loss": 4.5678 / step, "accuracy_iid": 0.123} for step in steps]
    monkeypatch.setattr(Run, "trajectory", lambda run: long)
    many: list[Run] = []
    for run in grid[:TWO_PER_CELL:3]:
        for seed in range(100):
            recipe = run.recipe.override({"seed": seed})
            result = run.result.model_copy(update={"run_id": recipe.run_id})
            many.append(run.model_copy(update={"recipe": recipe, "result": result}))
    assert len(many) == 1100
    show_only(monkeypatch, many[:MAX_RUNS])
    page, _ = report(tmp_path, tmp_path / "a.html")
    assert len(page.read_bytes()) < MAX_BYTES
    assert page.read_text().count('class="open"') == 1000
    show_only(monkeypatch, many)
    page, _ = report(tmp_path, tmp_path / "b.html")
    shown = page.read_text().count('class="open"')
    assert 900 < shown <= 1000
    assert f"{1100 - shown} runs are left out here" in page.read_text()
    assert sum(sum(verdicts.values()) for _, verdicts, *_ in data_of(page)["conditions"]) == 1100


def ids(path: Path) -> set[str]:
    return {recipe.run_id for recipe in load_sweep(path, ()).runs()}


@pytest.mark.parametrize(
    "recipes",
    [
        [TINY],
        Sweep(TINY, {"init.gamma": (0.5, 0.7), "model.norm": ("pre", "post"), "seed": (0, 1, 4)}).runs(),
        [TINY, TINY.override({"seed": 3, "init.gamma": 0.6}), TINY.override({"seed": 1, "init.gamma": 0.6})],
        Sweep(TINY.override({"optimizer": {"kind": "sgd", "warmup": 2}}), {"init.gamma": (0.4,), "seed": (0, 1)}).runs(),
        [TINY, *Sweep(TINY.override({"optimizer": {"kind": "lion", "warmup": 2}}), {"seed": (0, 1)}).runs()],
    ],
    ids=["one run", "grid", "no grid", "another optimizer", "two optimizers"],
)
def test_the_recipe_on_the_page_trains_the_same_runs(recipes: list[Recipe], tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(recipe_yaml(recipes))
    assert ids(tmp_path / "recipe.yaml") == {recipe.override({"variant": "heldout-both"}).run_id for recipe in recipes}


def test_facts_are_those_of_the_runs(finished_sweep: Path) -> None:
    runs = gather(finished_sweep).finished
    found = dict(facts(finished_sweep, runs, ["report", "folder of mine"]))
    machine = runs[0].result.machines[-1][1]
    assert machine.cpu in found["Machine"]
    assert f"torch {machine.torch}" in found["Versions"]
    assert "2 layers, 2 heads, d_model 8, d_ff 16, pre-LN" in found["Shape"]
    assert found["Command"].endswith("anchorbench report 'folder of mine'")
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", found["Trained"])


@pytest.fixture
def wide(grid: list[Run], tmp_path: Path) -> Path:
    return report(tmp_path, tmp_path / "wide.html", y="optimizer.weight_decay")[0]


def runs_shown(watched: Watched) -> int:
    return int(watched.tab.locator("output").text_content().split()[0])


def test_in_a_browser_it_is_quiet_sorts_and_fits_a_phone(browser: Any, wide: Path) -> None:
    watched = Watched(browser, wide, viewport={"width": 390, "height": 844})
    watched.tab.locator("#phase svg").wait_for()
    watched.header("init.gamma").locator("button").click()
    assert watched.column(1) == ["0.5"] * 16 + ["0.7"] * 16
    watched.header("init.gamma").locator("button").click()
    assert watched.column(1) == ["0.7"] * 16 + ["0.5"] * 16
    assert watched.tab.evaluate("document.documentElement.scrollWidth") <= 390
    requested = [url for url in watched.requests if not url.startswith("data:")]
    assert (watched.said, requested) == ([], [watched.address])
    watched.context.close()


def test_a_cell_shows_its_runs_alone(browser: Any, wide: Path) -> None:
    watched = Watched(browser, wide)
    cells = watched.tab.locator("#phase svg .mark-rect path")
    cells.first.wait_for()
    assert cells.count() == 8
    cells.first.click(force=True)  # upper left: gamma 0.5, weight decay 3
    watched.tab.locator("#which", has_text="init.gamma 0.5, optimizer.weight_decay 3: 4 runs").wait_for()
    assert watched.column(1) == ["0.5"] * 4
    assert watched.column(3) == ["3.0"] * 4
    watched.tab.locator("input[type=search]").fill("underfit")
    watched.tab.locator("#which", has_text=": 2 runs").wait_for()
    watched.tab.locator("#all").click()
    watched.tab.locator("#which", has_text="all runs").wait_for()
    assert runs_shown(watched) == TWO_PER_CELL
    watched.tab.locator("#y").select_option("model.norm")
    watched.tab.locator("#phase svg .mark-rect path").nth(3).wait_for()
    assert cells.count() == 4
    watched.tab.locator("button.open").first.click()
    watched.tab.locator("#which", has_text="1 run").wait_for()
    assert runs_shown(watched) == 1
    watched.context.close()


def test_what_is_downloaded(browser: Any, wide: Path) -> None:
    watched = Watched(browser, wide)
    watched.tab.locator("#phase svg").wait_for()
    watched.tab.locator("input[type=search]").fill("memorizing")
    with watched.tab.expect_download() as rows:
        watched.tab.locator("#csv").click()
    table = list(csv.DictReader(io.StringIO(Path(rows.value.path()).read_text())))
    assert len(table) == 9
    assert {row["Verdict"] for row in table} == {"memorizing"}
    assert {row["init.gamma"] for row in table} == {"0.5", "0.7"}
    with watched.tab.expect_download() as picture:
        watched.tab.locator("[data-chart=phase]").click()
    text = Path(picture.value.path()).read_text()
    assert text.startswith("<svg")
    assert "75%" in text
    assert watched.said == []
    watched.context.close()
