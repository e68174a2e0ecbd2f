"""Data sets and runs that are pushed: what is uploaded, and one sentence for what is not."""

import re
from pathlib import Path

import huggingface_hub
import pytest
from cells import change
from conftest import Cli, require_one_sentence

from anchorbench.hub import datasets as data
from anchorbench.hub.models import export
from anchorbench.sweeps.run_folder import Run

SIZE = 40


class FakeHub:
    """Stands for HfApi; remembers what it was asked for."""

    calls: list[tuple[str, dict[str, object]]] = []
    error: Exception | None = None

    def __init__(self, **_: object) -> None:
        if self.error is not None:
            raise self.error

    def create_repo(self, repo: str, **options: object) -> str:
        self.calls.append((repo, options))
        return f"https://huggingface.co/{options['repo_type']}s/{repo}"

    def upload_folder(self, **options: object) -> None:
        self.calls.append(("upload", options))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[FakeHub]:
    monkeypatch.setattr(FakeHub, "calls", [])
    monkeypatch.setattr(FakeHub, "error", None)
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeHub)
    return FakeHub


def pushable(folder: Path) -> Path:
    data.build("composite-conflict", folder, size=SIZE)
    (folder / ".cache").mkdir()
    (folder / ".cache" / "secret").write_text("mine")
    (folder / "notes.txt").write_text("mine")
    return folder


FILES = [
    *("README.md", "tokenizer.json", "tokenizer_config.json"),
    *(f"composite-conflict/{name}" for name in ("anchorbench.json", "tokenizer.json", "tokenizer_config.json")),
    *(f"composite-conflict/{split}.parquet" for split in ("train", "iid", "ood")),
]


def test_dry_run_lists_what_would_be_uploaded(cli: Cli, hub, tmp_path):
    folder = pushable(tmp_path / "out")
    outcome = cli("data", "push", folder, "me/it", "--dry-run")
    assert outcome.code == 0
    *listed, last = outcome.out.splitlines()
    assert [line.split()[1] for line in listed] == FILES
    assert [int(line.split()[0].replace(",", "")) for line in listed] == [(folder / name).stat().st_size for name in FILES]
    assert "9 files" in last
    assert hub.calls == []


def test_push(cli: Cli, hub, tmp_path):
    folder = pushable(tmp_path / "out")
    outcome = cli("data", "push", folder, "me/it")
    assert (outcome.code, outcome.out) == (0, "uploaded: https://huggingface.co/datasets/me/it\n")
    assert hub.calls == [
        ("me/it", {"repo_type": "dataset", "exist_ok": True}),
        ("upload", {"repo_id": "me/it", "repo_type": "dataset", "folder_path": folder, "allow_patterns": FILES}),
    ]


def test_wrong_data_are_not_pushed(cli: Cli, hub, tmp_path):
    folder = pushable(tmp_path / "out")
    change(folder / "composite-conflict" / "ood.parquet", "label", 1, 5)
    outcome = cli("data", "push", folder, "me/it")
    assert outcome.code == 2
    assert "row 1: label is 5" in outcome.err
    assert hub.calls == []


@pytest.mark.parametrize("name", ["README.md", "tokenizer.json", "composite-conflict/tokenizer_config.json", "composite-conflict"])
def test_links_are_not_pushed(cli: Cli, hub, tmp_path, name):
    folder = pushable(tmp_path / "out")
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    outcome = cli("data", "push", folder, "me/it")
    assert outcome.code == 2
    require_one_sentence(outcome.err)
    assert hub.calls == []


@pytest.mark.parametrize(
    "error",
    [
        OSError("Token is required\n(`token=True`), but no token found."),
        ConnectionError("[Errno -2] Name or service not known"),
        RuntimeError(),
    ],
    ids=["token", "network", "nameless"],
)
def test_what_the_hub_refuses_is_one_sentence(cli: Cli, hub, tmp_path, monkeypatch, error):
    monkeypatch.setattr(hub, "error", error)
    outcome = cli("data", "push", pushable(tmp_path / "out"), "me/it")
    assert outcome.code == 2
    assert "'me/it' cannot be pushed to the Hub" in outcome.err
    require_one_sentence(outcome.err)


@pytest.mark.parametrize("repo", ["me/it", "../it", "a/b/c", ""])
def test_without_network_push_is_one_sentence(cli: Cli, tmp_path, repo):
    """With the real library, which the tests keep offline."""
    outcome = cli("data", "push", pushable(tmp_path / "out"), repo)
    assert outcome.code == 2
    assert "cannot be pushed to the Hub" in outcome.err
    require_one_sentence(outcome.err)


# --- Runs

RUN_FILES = [
    *("README.md", "anchorbench.json", "config.json", "generation_config.json", "model.safetensors"),
    *("tokenizer.json", "tokenizer_config.json"),
]


def test_dry_run_of_a_run_shows_its_card_and_files(cli: Cli, hub, run: Run) -> None:
    outcome = cli("push", run.path, "me/it", "--dry-run")
    assert (outcome.code, outcome.err) == (0, "")
    card, _, listed = outcome.out.rpartition("```\n\n")
    assert [line.split()[1] for line in listed.splitlines()[:-1]] == RUN_FILES
    assert f"{len(RUN_FILES)} files would be uploaded to me/it; nothing was" in listed
    assert card.startswith("---\n")
    assert hub.calls == []


def test_push_of_a_run(cli: Cli, hub, run: Run) -> None:
    outcome = cli("push", run.path, "me/it")
    assert (outcome.code, outcome.out) == (0, "uploaded: https://huggingface.co/models/me/it\n")
    (repo, created), (_, uploaded) = hub.calls
    assert (repo, created) == ("me/it", {"repo_type": "model", "exist_ok": True})
    assert (uploaded["repo_type"], uploaded["allow_patterns"]) == ("model", RUN_FILES)
    assert not Path(str(uploaded["folder_path"])).exists()  # nothing is left on this machine


def test_a_run_that_is_missing_or_refused_is_one_sentence(cli: Cli, hub, run: Run, tmp_path, monkeypatch) -> None:
    missing = cli("push", tmp_path / "none", "me/it")
    monkeypatch.setattr(hub, "error", OSError("no token"))
    refused = cli("push", run.path, "me/it")
    nameless = cli("push", run.path, "../it", "--dry-run")
    for outcome, said in (
        (missing, "missing"),
        (refused, "'me/it' cannot be pushed to the Hub: no token"),
        (nameless, "'../it' cannot be pushed to the Hub: allowed: OWNER/NAME"),
    ):
        assert (outcome.code, outcome.out) == (2, "")
        require_one_sentence(outcome.err)
        assert said in outcome.err


def test_the_card_of_a_run_says_what_it_is(run: Run, tmp_path: Path) -> None:
    card = huggingface_hub.ModelCard.load(export(run, tmp_path / "out") / "README.md")
    assert card.data.library_name == "transformers"
    found = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert found["accuracy_iid"] == round(run.result.accuracy_iid.value, 4)
    assert f"Its verdict: **{run.result.verdict}**" in card.text
    assert f"Run `{run.result.run_id}`" in card.text
    assert f"| {run.result.accuracy_train.value:.3f} |" in card.text


def test_the_code_of_its_card_runs(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = export(run, tmp_path / "out")
    (code,) = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)
    exec(code.replace('"..."', repr(str(out))), {})  # noqa: S102 - our own card
    assert capsys.readouterr().out.strip() in {token.word for token in run.recipe.load_task().vocabulary}
