"""A preset small enough to train in a second, the command line in this process, and one trained sweep for all to read."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

# Two test processes share two cores: a second thread in each would only wait for the other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
import shapes  # noqa: F401 - before the package, whose functions it wraps
import torch

from anchorbench.inspect.open_model import Activations, Edits, OpenModel
from anchorbench.model.gpt import GPT, ModelConfig
from anchorbench.model.initialize import initialize
from anchorbench.model.initializers.rate import Rate
from anchorbench.presets import PRESETS
from anchorbench.recipe import Recipe
from anchorbench.sweeps.run_folder import Run, read_run
from anchorbench.train.optimizers.adamw import AdamW

ROOT = Path(__file__).parents[1]

pytest.register_assert_rewrite("claim_runs", "every_part", "every_task", "pages", "probe_results")

hypothesis.settings.register_profile("no clock", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("no clock")

TINY = Recipe(
    model=ModelConfig(n_layer=2, n_head=2, d_model=8, d_head=4, d_ff=16),
    optimizer=AdamW.Config(warmup=2),
    batch=16,
    steps=6,
    data_size=500,
)
SMALL_COMPOSITE: dict[str, Any] = {
    "key_min": 10, "key_max": 24, "vocab_size": 32, "modulus": 3, "offsets": {1: 2, 2: 1, 3: -1, 4: -2}
}  # fmt: skip
"""A `composite` whose planted circuits are a tenth of the size of the papers'."""
SWEEP = ("run", "--gamma", "0.5,0.7", "--seeds", "2")
RUNS = 4


class WiderOptimizer(AdamW.Config):
    lookahead: int | None = None


class WiderRecipe(Recipe):
    """A recipe of a later version: two more fields, which do nothing at their defaults."""

    optimizer: WiderOptimizer = WiderOptimizer()
    jitter: float = 0.0


class Outcome(NamedTuple):
    """What a command left: exit code, standard output and standard error."""

    code: int
    out: str
    err: str


Cli = Callable[..., Outcome]


class FakeModel(OpenModel):
    """Shows what a test says: `activations` of any tokens, `weights`, and `untrained` as the control of every seed."""

    vocab_size, max_length = 120, 9
    n_layer = 2  # given here too, as the property is abstract

    def __init__(
        self,
        activations: Callable[[torch.Tensor], Activations],
        weights: dict[str, torch.Tensor] | None = None,
        untrained: OpenModel | None = None,
        n_layer: int = 2,
    ) -> None:
        self.see, self.matrices, self.control = activations, weights or {}, untrained or self
        self.n_layer = n_layer

    def untrained(self, seed: int) -> OpenModel:
        return self.control

    def _logits(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.see(tokens).logits

    def _activations(self, tokens: torch.Tensor, edits: Edits) -> Activations:
        return self.see(tokens)

    def _weights(self) -> dict[str, torch.Tensor]:
        return self.matrices


def patterns_of(model: GPT, tokens: torch.Tensor) -> list[torch.Tensor]:
    """The attention pattern of each layer of a stack, `[members, batch, head, query, key]`, by its blocks alone."""
    x, patterns = model.embed(tokens), []
    for block in model.layers:
        x, pattern = block(x, model.length, last_only=False)
        patterns.append(pattern[..., model.inside, model.inside])
    return patterns


def patch_training(patch: pytest.MonkeyPatch, **constants: object) -> None:
    """Sets constants of the training loop and of its evaluations."""
    for name, value in constants.items():
        patch.setattr(f"anchorbench.train.{'execution' if name == 'CHECKPOINT_SECONDS' else 'evaluation'}.{name}", value)


def require_one_sentence(err: str) -> None:
    """Standard error holds one line that says what is wrong, and no traceback."""
    assert err.startswith("anchorbench: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert "Traceback" not in err
    assert len(err.split()) > 3


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Relative path -> content of every file under `folder`."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def sign(folder: Path) -> None:
    """Records the digests of a run's files as they are now, as someone would who hides a change."""
    names = [path.name for path in folder.iterdir() if path.name != "digests.json"]
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    (folder / "digests.json").write_text(json.dumps(digests))


def random_gpt(seed: int = 0, vocab_size: int = 120, seq_len: int = 9, members: int = 1, **shape: object) -> GPT:
    """A stack with large random weights and biases, so that every part of it shows in the logits."""
    model = GPT(ModelConfig(**shape), members=members, vocab_size=vocab_size, seq_len=seq_len)
    initialize(model, [Rate.Config(gamma=0.3)] * members, list(range(seed, seed + members)))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session", autouse=True)
def _offline() -> Iterator[None]:
    """No test reaches for a network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(scope="session", autouse=True)
def _fp32() -> Iterator[None]:
    """The same precision on every machine, unless a test asks for another."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("anchorbench.machine.native_bf16", lambda: False)
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_step_a_call() -> Iterator[None]:
    """The compiled step is called for one step at a time, so that tests can interrupt training after any of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("anchorbench.train.stack.CALL_SECONDS", 0.0)
        yield


@pytest.fixture(scope="module")
def small_evaluations() -> Iterator[None]:
    """For modules that look at how models are trained and not at what they have learned."""
    with pytest.MonkeyPatch.context() as patch:
        patch_training(patch, EVALUATION_SIZE=16, FINAL_SIZE=32)
        yield


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs a command in this process, where the laptop preset is TINY."""
    from anchorbench.cli.main import main

    monkeypatch.setitem(PRESETS, "laptop", TINY)

    def call(*arguments: str | Path) -> Outcome:
        monkeypatch.setattr("sys.argv", ["anchorbench", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        code = exit_.value.code
        return Outcome(0 if code is None else int(code), *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def finished_sweep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a finished sweep of RUNS runs: read it, copy it, do not change it."""
    from anchorbench.cli.run import make_sweep, run_and_show
    from anchorbench.train.execution import Execution

    out = tmp_path_factory.mktemp("finished") / "sweep"
    options = {"task": "composite", "variant": None, "norm": None, "seeds": 2, "steps": None, "weight_decay": None}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "laptop", TINY)
        run_and_show(make_sweep(preset="laptop", gamma="0.5,0.7", **options), out, Execution())
    before = contents(out)
    yield out
    assert contents(out) == before, "a test changed the finished sweep; it needs a copy (`sweep`)"


def contents(folder: Path) -> dict[Path, bytes]:
    """Every file below it."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def sweep(finished_sweep: Path, tmp_path: Path) -> Path:
    """A copy of the finished sweep, to damage."""
    return Path(shutil.copytree(finished_sweep, tmp_path / "sweep"))


@pytest.fixture
def run(finished_sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One finished run, in a copy of its sweep: `classify` writes beside it."""
    sweep = Path(shutil.copytree(finished_sweep, tmp_path_factory.mktemp("run") / "sweep"))
    return read_run(sorted((sweep / "runs").iterdir())[0])


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real one, without a window; a test that needs it is skipped where there is none."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if found is None:
        pytest.skip("no Chromium found; on Debian: apt-get install chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=found)
        yield browser
        browser.close()
