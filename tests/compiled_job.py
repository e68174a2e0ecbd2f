"""What tests/test_compiled.py runs in a process of its own, as shape checks cannot be compiled; prints JSON."""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from oracle import SEQ_LEN, random_tokens, small_stack

from anchorbench import compiled, sweep
from anchorbench.backprop import Backprop
from anchorbench.compiled import CompiledBackprop
from anchorbench.recipe import PRESETS
from anchorbench.sweep import Sweep, SweepFolder, run_sweep

SMALL = Sweep(
    PRESETS["laptop"].override(
        {
            "steps": 6,
            "data_size": 64,
            "batch": 8,
            "optimizer.warmup": 1,
            "model": {"n_layer": 1, "d_model": 16, "d_head": 16, "d_ff": 16},
        }
    ),
    {"seed": (0, 1, 2)},
)


def worst_errors(shape: str) -> dict[str, float]:
    """Largest difference from the written-out step, of losses and of each gradient."""
    model = small_stack(shape, 3)
    tokens, labels = random_tokens(3, 4, SEQ_LEN), random_tokens(3, 4, seed=1)
    plain, fast = Backprop(model, 4), CompiledBackprop(model)
    errors = {"losses": (plain(tokens, labels) - fast(tokens, labels)).abs().max().item()}
    for name, parameter in model.named_parameters():
        errors[name] = (fast.gradients[parameter] - plain.gradients[parameter]).abs().max().item()
    return errors


def same_bits() -> dict[str, object]:
    """Whether members end with the same weights in a stack of three and in stacks of two and one."""
    compiled.COMPILE_SECONDS = 0.0
    lines: list[str] = []
    with TemporaryDirectory() as folder:
        together = run_sweep(SMALL, SweepFolder(Path(folder) / "a", SMALL), lambda event: lines.append(event.message or ""))
        sweep.STACK_MEMBERS = 2
        apart = run_sweep(SMALL, SweepFolder(Path(folder) / "b", SMALL))
        equal = [
            bool((weight == other.weights()[name]).all())
            for one, other in zip(together, apart, strict=True)
            for name, weight in one.weights().items()
        ]
    return {"line": lines[0], "equal": equal}


if __name__ == "__main__":
    print(json.dumps(same_bits() if sys.argv[1] == "same bits" else worst_errors(sys.argv[1])))
