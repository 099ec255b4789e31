"""What a process runs in: environment variables, cores, memory.

What a user's shell sets for other programs changes no result here. What people set on purpose stays: KERAS_BACKEND,
KERAS_HOME, CUDA_VISIBLE_DEVICES, STATEFARM_*, PYTHONPATH, proxies. Cores and memory are the machine's, or fewer where
an affinity or a control group limits them, as taskset, SLURM, containers and systemd do, with all groups inside.
"""

import locale
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

THREADS = "STATEFARM_THREADS"  # that one process computes with; decides how sums are rounded
_OF_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")
LESS_MEMORY = "STATEFARM_LESS_MEMORY"  # set in the process of a job that is tried again
OF_EXECUTOR = "STATEFARM_OF_EXECUTOR"  # set in a process of an executor: it ends when its standard input closes
_RESTARTED = "STATEFARM_RESTARTED"

_DROPPED = (  # what these begin with changes results or crashes: kernels, precision, threads, debugging switches
    *("TF_", "KERAS_", "XLA_", "JAX_", "ONEDNN_", "DNNL_", "CUBLAS_", "CUDNN_", "NVIDIA_TF32_OVERRIDE"),
    *("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "GOTO_", "NPY_", "OPENCV_", "SCIPY_", "SKLEARN_"),
    *("PYTHONOPTIMIZE", "PYTHONWARNINGS", "PYTHONDEVMODE", "PYTHONINSPECT", "PYTHONIOENCODING"),
    *("PYTHONINTMAXSTRDIGITS", "PYTHON_CPU_COUNT"),
)
_KEPT = (
    *("KERAS_BACKEND", "KERAS_HOME", "JAX_PLATFORM", "JAX_COMPILATION_CACHE", "TF_CPP_"),
    *("OPENCV_IO_MAX_IMAGE_PIXELS", "OPENCV_FFMPEG_LOGLEVEL"),
    *("TF_FORCE_GPU_ALLOW_GROWTH", "TF_GPU_ALLOCATOR", "XLA_PYTHON_CLIENT_"),  # memory
)
_XLA_KEPT = "--xla_gpu_cuda_data_dir="  # where CUDA is installed
ROOT = Path("/")  # of /proc and /sys
# Of cached files, which give way; in memory.stat of version 2 and 1, where the totals include the groups inside.
_CACHED, _CACHED_V1 = ("inactive_file", "active_file"), ("total_inactive_file", "total_active_file")


def pinned(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what would change results, and with the number of threads if it is limited."""
    kept = {name: text for name, text in environment.items() if name.startswith(_KEPT) or not name.startswith(_DROPPED)}
    flags = [word for word in environment.get("XLA_FLAGS", "").split() if word.startswith(_XLA_KEPT)]
    asked = environment.get(THREADS, "")
    threads = asked if asked.isdigit() else limited_cores()
    return kept | ({"XLA_FLAGS": " ".join(flags)} if flags else {}) | with_threads(threads)


def with_threads(threads: int | str | None) -> dict[str, str]:
    """The variables of a process that computes with so many threads; none where it takes all cores."""
    return dict.fromkeys((THREADS, *_OF_THREADS), str(threads)) if threads else {}


def pin() -> None:
    """Changes this process's environment to the pinned one: for libraries that are not loaded yet."""
    wanted = pinned(os.environ)
    for name in set(os.environ) - set(wanted):
        del os.environ[name]
    os.environ.update(wanted)


def pin_command() -> None:
    """As `pin`, for a command: starts it again where something was set that libraries or Python have read already."""
    wanted = pinned(os.environ)
    restarted = wanted.pop(_RESTARTED, "")
    differs = any(wanted.get(name) != value for name, value in os.environ.items() if name != _RESTARTED)
    if not sys.flags.utf8_mode and locale.getencoding().lower() not in ("utf-8", "utf8"):
        wanted["PYTHONUTF8"] = "1"
        differs = True
    if differs and not restarted:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], wanted | {_RESTARTED: "yes"})  # noqa: S606
    os.environ.pop(_RESTARTED, None)
    pin()


def keras_backend() -> str:
    """The package that Keras computes with, without loading it: $KERAS_BACKEND, or TensorFlow."""
    return os.environ.get("KERAS_BACKEND", "tensorflow")


def keras_home() -> Path:
    """Where Keras keeps what it downloads: $KERAS_HOME or ~/.keras, or else where it may write."""
    home = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()
    there = next((folder for folder in (home, *home.absolute().parents) if folder.exists()), home)
    return home if os.access(there, os.W_OK) else Path("/tmp/.keras")  # noqa: S108, as Keras has it


def load_matplotlib() -> None:
    """Imports matplotlib without a display and with its own defaults. Call it before other imports of matplotlib.

    Keras imports matplotlib too. A notebook's kernel keeps its backend and styles: its user draws there.
    """
    if "ipykernel" in sys.modules:
        return
    os.environ["MPLBACKEND"] = "Agg"  # one that notebooks set may not be installed here
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcdefaults()  # nothing of a matplotlibrc


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
