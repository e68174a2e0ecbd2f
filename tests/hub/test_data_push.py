"""Data sets that are pushed: what is uploaded, and one sentence for what is not."""

from pathlib import Path

import huggingface_hub
import pytest
from cells import change
from conftest import Cli, require_one_sentence

from anchorbench.hub import datasets as data

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
        return f"https://huggingface.co/datasets/{repo}"

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
