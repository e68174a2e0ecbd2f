"""What a training run's bits depend on besides its recipe: recorded in every result and checkpoint."""

import os
import platform
import re
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import Field

from anchorbench.files import Plain


class Machine(Plain):
    """The machine and software that trained a run. The same recipe gives the same weights wherever all of these fields agree."""

    gradient: str
    """How gradients were computed: `native (COMPILER INSTRUCTIONS)` is the compiled step, `backprop` the hand-written backward
    pass in torch, `autograd` automatic differentiation."""
    precision: str
    """Precision of activations and matmuls."""
    cpu: str
    """Model name of the processor."""
    capability: str
    """Instruction set that torch uses on the CPU: DEFAULT, AVX2, AVX512, ..."""
    threads: int = Field(ge=1, le=100_000)
    """Threads per operation in torch, or members trained at a time by the compiled step."""
    blas: str
    """BLAS library, with its version."""
    gpu: str
    """Model name of the GPU; `none` if the run was trained on the CPU."""
    driver: str
    """Versions of the GPU runtime and driver; `none` without a GPU."""
    system: str
    """Operating system and architecture."""
    python: str
    torch: str
    numpy: str
    anchorbench: str

    def differences(self, other: "Machine") -> str:
        """The fields that bits depend on and in which `other` differs, in words; empty if there are none."""
        mine, others = self.model_dump(), other.model_dump()
        # The compiled step trains a member on one thread, without a BLAS library.
        same = {"threads", "blas"} if self.gradient == other.gradient and self.gradient.startswith("native") else set[str]()
        differ = [name for name in mine if mine[name] != others[name] and name not in same]
        return ", ".join(f"{name} {mine[name]} there and {others[name]} here" for name in differ)


def this_machine(precision: str, *, gpu: bool, gradient: str) -> Machine:
    """The current machine, as it would train a recipe on this gradient path."""
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    gpu_name = driver = "none"
    if gpu:
        gpu_name = torch.cuda.get_device_name()
        core: Any = torch._C
        driver = f"CUDA {torch.version.cuda}, driver {core._cuda_getDriverVersion()}"
    return Machine(
        gradient=gradient,
        precision=precision,
        cpu=_cpu(),
        capability=capability,
        threads=torch.get_num_threads(),
        blas=_blas(),
        gpu=gpu_name,
        driver=driver,
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        torch=torch.__version__,
        numpy=version("numpy"),
        anchorbench=version("anchorbench"),
    )


def use_device(name: str | None) -> None:
    """Restricts this process to one device: `cpu`, `cuda` or `cuda:N`; None allows all. Call it before any other use.

    Raises ValueError with one sentence for another name, and for a GPU that does not exist.
    """
    import torch

    if name is None:
        return
    found = re.fullmatch(r"cpu|cuda(?::(\d{1,3}))?", name)
    if found is None:
        raise ValueError(f"device is {name[:50]!r}; allowed: cpu, cuda, cuda:0, cuda:1, ...")
    if name == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return
    number, seen = int(found[1] or 0), os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(each) for each in range(number + 1)] if seen is None else [each for each in seen.split(",") if each]
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names[number : number + 1])
    if not torch.cuda.is_available():
        raise ValueError(f"device is {name}, which does not exist; allowed here: cpu, or a GPU that PyTorch sees")


def native_bf16() -> bool:
    """Whether this machine multiplies matrices faster in bf16 than in fp32. Instructions for bf16 without AMX do not suffice: on
    Sapphire Rapids limited to AVX-512, torch took 1.2 (width 64) and 1.5 times (width 400) as long in bf16.
    """
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_capability() >= (8, 0)
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


@cache
def _cpu() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(errors="replace"), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or "unknown"


@cache
def _blas() -> str:
    import torch

    built = torch.__config__.show()
    found = re.search(r"oneAPI Math Kernel Library Version (\S+)", built)
    if found:
        return f"MKL {found[1]}"
    found = re.search(r"BLAS_INFO=(\w+)", built)
    return found[1] if found else "unknown"


def commit() -> str | None:
    """Commit of this code, with -dirty if tracked files differ from it; None outside a repository that tracks it."""
    git = ["git", "--no-optional-locks", "-C", str(Path(__file__).parent)]
    try:
        tracked = subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], capture_output=True, check=False)
        if tracked.returncode:
            return None
        describe = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
