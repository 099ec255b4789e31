"""Cores and memory of this process: the machine's, or fewer where an affinity or a control group limits them.

taskset, SLURM, containers and systemd set such limits. A control group's limit holds for all groups inside it.
"""

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")  # of /proc and /sys
# Of cached files, which give way; in memory.stat of version 2 and 1, where the totals include the groups inside.
_CACHED, _CACHED_V1 = ("inactive_file", "active_file"), ("total_inactive_file", "total_active_file")


def cores() -> int:
    """Processor cores that this process may use, at least one."""
    return limited_cores() or os.cpu_count() or 1


def limited_cores() -> int | None:
    """As `cores`, and None where nothing limits them."""
    found = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else found
    least = max(1, min([found, allowed, *_quotas()]))
    return least if least < found else None


def total_memory() -> int:
    """Bytes of this machine, or of its share."""
    import psutil

    limits = [limit for group in _groups("memory") for limit in _memory_limits(group)]
    return min([psutil.virtual_memory().total, *limits])


def available_memory() -> int:
    """Bytes that are free or that cached files give back, within every limit; at least 0."""
    import psutil

    left = [psutil.virtual_memory().available]
    for group in _groups("memory"):
        limits = _memory_limits(group)
        used = _number(group / "memory.current")
        used = _number(group / "memory.usage_in_bytes") if used is None else used
        if limits and used is not None:
            entries = dict(line.split()[:2] for line in _text(group / "memory.stat").splitlines() if " " in line)
            names = _CACHED_V1 if _CACHED_V1[0] in entries else _CACHED
            left.append(min(limits) - used + sum(int(entries.get(name, 0)) for name in names))
    return max(0, min(left))


def at_a_time(most: int, memory: int) -> int:
    """How many of `most` processes of so many bytes each fit in the memory that is free; at least one."""
    return max(1, min(most, available_memory() // memory))


def _memory_limits(group: Path) -> list[int]:
    """Of one control group, version 2 or 1; above memory.high processes are slowed down until nothing moves."""
    found = [_number(group / name) for name in ("memory.max", "memory.high", "memory.limit_in_bytes")]
    return [limit for limit in found if limit is not None]


def _quotas() -> Iterator[int]:
    """How many cores each control group may keep busy, rounded down."""
    for group in _groups("cpu"):
        quota, _, period = _text(group / "cpu.max").partition(" ")  # version 2: 'max 100000' or '200000 100000'
        if not quota:
            quota, period = _text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period) > 0:  # no limit: 'max' or '-1'
            yield int(quota) // int(period)


def _groups(controller: str) -> Iterator[Path]:
    """The folders of this process's control groups ('cpu' or 'memory'), its own and those around it, if visible."""
    mounts = ROOT / "sys" / "fs" / "cgroup"
    for line in _text(ROOT / "proc" / "self" / "cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        names = (controllers, controller) if controllers else ("unified", ".")  # version 2 is alone, or beside 1
        mount = next((mounts / name for name in names if (mounts / name).is_dir()), None)
        if mount is None:
            continue
        own = mount / path.lstrip("/")
        # A container sees its own group as the root, under a path that is the host's.
        yield from (group for group in (own, *own.parents) if group.is_relative_to(mount) and group.is_dir())


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    """What a file holds; nothing where it is not there or not readable."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""
