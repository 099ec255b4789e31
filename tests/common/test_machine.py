"""Cores and memory are those that this process may use, whatever the machine has."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from common import environment
from tests.commands import run_python

GROUPS = "sys/fs/cgroup"
UNLIMITED = "9223372036854771712"  # version 1


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a system with 8 cores."""
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    return tmp_path


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux has it")
def test_cores_are_those_of_the_affinity() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from common import environment; "
    code += "print(environment.cores(), environment.limited_cores())"
    done = run_python("-c", code)
    assert done.stdout.split() == ["1", "None" if os.cpu_count() == 1 else "1"]


@pytest.mark.parametrize(
    ("files", "cores", "memory", "left"),
    [
        ({}, 8, None, None),
        pytest.param(
            {
                "proc/self/cgroup": "0::/a/b",
                f"{GROUPS}/a/b/cpu.max": "max 100000",
                f"{GROUPS}/a/cpu.max": "250000 100000",
                f"{GROUPS}/a/b/memory.max": "max",
                f"{GROUPS}/a/memory.max": "4000",
                f"{GROUPS}/a/memory.current": "3000",
                f"{GROUPS}/a/memory.stat": "anon 5\ninactive_file 20\nactive_file 10",
            },
            *(2, 4000, 1030),
            id="version 2, a limit of an outer group",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "12:memory:/a/b\n3:cpu,cpuacct:/a/b\n0::/x",
                f"{GROUPS}/cpu,cpuacct/a/cpu.cfs_quota_us": "50000",
                f"{GROUPS}/cpu,cpuacct/a/cpu.cfs_period_us": "100000",
                f"{GROUPS}/cpu,cpuacct/cpu.cfs_quota_us": "-1",
                f"{GROUPS}/memory/memory.limit_in_bytes": UNLIMITED,
                f"{GROUPS}/memory/a/memory.limit_in_bytes": "5000",
                f"{GROUPS}/memory/a/memory.usage_in_bytes": "0",
                f"{GROUPS}/memory/a/b/memory.limit_in_bytes": "6000",
                f"{GROUPS}/memory/a/b/memory.usage_in_bytes": "5600",
                f"{GROUPS}/memory/a/b/memory.stat": "total_inactive_file 10\ntotal_active_file 0\ninactive_file 7",
            },
            *(1, 5000, 410),
            id="version 1, limits at two levels",
        ),
    ],
)
def test_a_control_group_limits_all_that_are_inside_it(
    system: Path, files: Mapping[str, str], cores: int, memory: int | None, left: int | None
) -> None:
    machine_memory, machine_left = environment.total_memory(), environment.available_memory()
    for name, text in files.items():
        (system / name).parent.mkdir(parents=True, exist_ok=True)
        (system / name).write_text(text + "\n")
    assert environment.cores() == cores
    assert environment.limited_cores() == (None if cores == 8 else cores)
    assert environment.total_memory() == (memory or machine_memory)
    assert environment.available_memory() == (left or pytest.approx(machine_left, rel=0.5))
