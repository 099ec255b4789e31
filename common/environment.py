"""Environment variables: what a user's shell sets for other programs changes no result here.

What people set on purpose stays: KERAS_BACKEND, KERAS_HOME, CUDA_VISIBLE_DEVICES, STATEFARM_*, PYTHONPATH, proxies.
"""

import locale
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from common import machine

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


def pinned(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what would change results, and with the number of threads if it is limited."""
    kept = {name: text for name, text in environment.items() if name.startswith(_KEPT) or not name.startswith(_DROPPED)}
    flags = [word for word in environment.get("XLA_FLAGS", "").split() if word.startswith(_XLA_KEPT)]
    asked = environment.get(THREADS, "")
    threads = asked if asked.isdigit() else machine.limited_cores()
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
