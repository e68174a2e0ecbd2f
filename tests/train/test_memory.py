"""Free memory: the least of machine, cgroups of both versions, nested and seen from inside, and SLURM."""

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchorbench.presets import PRESETS
from anchorbench.sweeps.plan import stacks
from anchorbench.train.memory import free_memory

MIB = 2**20
MACHINE = 64 * 1024 * MIB
OWN = 300 * MIB
"""What this process has taken already."""
NO_LIMIT_V1 = 2**63 - 4096
"""What v1 says where there is no limit."""


@pytest.fixture(autouse=True, scope="module")
def _machine():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=MACHINE))
        patch.setattr(psutil.Process, "memory_info", lambda self: SimpleNamespace(rss=OWN))
        yield


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{content}\n")


def v2(folder: Path, limit: object, used: int = 0, cache: int = 0, high: object = "max") -> None:
    write(folder / "memory.max", limit)
    write(folder / "memory.high", high)
    write(folder / "memory.current", used)
    write(folder / "memory.stat", f"anon {used}\nfile 0\ninactive_file {cache}\nactive_file 7")


def v1(folder: Path, limit: int, used: int = 0, cache: int = 0) -> None:
    write(folder / "memory.limit_in_bytes", limit)
    write(folder / "memory.usage_in_bytes", used)
    write(folder / "memory.stat", f"inactive_file 1\ntotal_inactive_file {cache}")


def belongs(root: Path, *lines: str) -> Path:
    """Writes the process's cgroups; gives the folder where they are mounted."""
    write(root / "proc/self/cgroup", "\n".join(lines))
    return root / "sys/fs/cgroup"


def free(root: Path, **environ: object) -> float:
    return free_memory(root, {name: str(value) for name, value in environ.items()}) / MIB


def test_no_limit_leaves_the_machine(tmp_path: Path) -> None:
    assert free(tmp_path) == MACHINE / MIB  # no cgroups at all, as on macOS
    mounts = belongs(tmp_path, "4:cpu,memory:/", "0::/user")
    v1(mounts / "memory", NO_LIMIT_V1, used=5 * MIB)
    v2(mounts / "user", "max", used=5 * MIB)
    assert free(tmp_path) == MACHINE / MIB


@pytest.mark.parametrize("path", ["/", "/system.slice/job.scope", "/../other"], ids=["own root", "path of the host", "beside"])
@pytest.mark.parametrize("version", ["v1", "v2", "v2 beside v1"])
def test_a_container_sees_its_limit_at_the_root_of_the_mount(tmp_path: Path, version: str, path: str) -> None:
    mounts = belongs(tmp_path, "3:cpu:/", f"2:memory:{path}" if version == "v1" else f"0::{path}")
    if version == "v1":
        v1(mounts / "memory", 2048 * MIB, used=600 * MIB, cache=100 * MIB)
    else:
        v2(mounts / ("unified" if "beside" in version else ""), 2048 * MIB, used=600 * MIB, cache=100 * MIB)
    assert free(tmp_path) == 2048 - (600 - 100)


LEVEL = st.tuples(st.sampled_from([None, 0, 100, 4096, 10**7]), st.integers(0, 5000), st.integers(0, 5000))


@given(levels=st.lists(LEVEL, min_size=1, max_size=4), version=st.sampled_from([1, 2]))
def test_the_tightest_of_nested_cgroups_counts(
    tmp_path_factory: pytest.TempPathFactory, levels: list[tuple[int | None, int, int]], version: int
) -> None:
    """Each level is (limit or None, usage, page cache) in MiB, from the root down to the process's own."""
    root = tmp_path_factory.mktemp("root")
    names = [f"level{depth}" for depth in range(1, len(levels))]
    path = "/" + "/".join(names)
    mounts = belongs(root, f"7:memory:{path}" if version == 1 else f"0::{path}")
    expected = MACHINE // MIB
    for depth, (limit, used, cache) in enumerate(levels):
        folder = (mounts / "memory" if version == 1 else mounts).joinpath(*names[:depth])
        if version == 1:
            v1(folder, NO_LIMIT_V1 if limit is None else limit * MIB, used * MIB, cache * MIB)
        else:
            v2(folder, "max" if limit is None else limit * MIB, used * MIB, cache * MIB)
        if limit is not None:
            expected = min(expected, limit - max(0, used - cache))
    assert free(root) == max(0, expected)


def test_a_soft_limit_counts_too(tmp_path: Path) -> None:
    v2(belongs(tmp_path, "0::/"), 4096 * MIB, high=1024 * MIB)
    assert free(tmp_path) == 1024


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"SLURM_MEM_PER_NODE": 4000}, 4000 - 300),
        ({"SLURM_MEM_PER_CPU": 1000, "SLURM_CPUS_ON_NODE": 8}, 8000 - 300),
        ({"SLURM_MEM_PER_CPU": 1000}, 1000 - 300),
        ({"SLURM_MEM_PER_NODE": 0}, MACHINE / MIB),  # all of the node
        ({"SLURM_MEM_PER_NODE": 200}, 0),
        ({"SLURM_MEM_PER_NODE": "unknown", "SLURM_MEM_PER_CPU": ""}, MACHINE / MIB),
    ],
)
def test_slurms_grant(tmp_path: Path, environ: dict[str, object], expected: float) -> None:
    assert free(tmp_path, **environ) == expected


def test_a_cgroup_inside_a_slurm_job(tmp_path: Path) -> None:
    v1(belongs(tmp_path, "4:memory:/slurm/job_1") / "memory/slurm/job_1", 3000 * MIB, used=500 * MIB)
    assert free(tmp_path, SLURM_MEM_PER_NODE=4000) == 2500
    assert free(tmp_path, SLURM_MEM_PER_NODE=2000) == 1700


def test_a_sweep_is_planned_within_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stacks fit in 60% of what is left, on a machine that has far more; a lone member that does not is refused by name."""
    recipes = [PRESETS["laptop"].override({"seed": seed, "data_size": 500_000}) for seed in range(8)]
    assert [len(stack) for stack in stacks(recipes)] == [8]
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "700")
    planned = [len(stack) for stack in stacks(recipes)]
    assert sum(planned) == 8
    assert len(planned) > 1
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "310")
    with pytest.raises(ValueError, match=r"the smallest stack takes .* GiB of memory; allowed here: 0\.01 GiB"):
        stacks(recipes)
