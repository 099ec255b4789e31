"""What there is to compute on, and what a run needs of it: accelerators, memory, disk, time.

Estimates come from the networks' operations, a short measurement of this machine, and a table of GPUs.
"""

import dataclasses
import functools
import os
import re
import subprocess
import sys
import timeit
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common import environment
from common.environment import keras_backend
from common.errors import UserError, named
from common.files import free_bytes
from common.run_folder import REPOSITORY
from models.finetuning import runtime
from models.finetuning.architecture import Architecture, Recipe

DEVICES = "STATEFARM_DEVICES"  # '0,1' or '0=T4,1=T4'; 'none' for no accelerator
VISIBLE = "CUDA_VISIBLE_DEVICES"  # what TensorFlow and JAX look for
PART_OF_A_GPU = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # not all its memory
GPUS = {  # Kaggle's name for a machine with some: what the driver calls one, and its half-precision operations a second
    "NvidiaTeslaT4": ("T4", 65e12),
    "NvidiaL4": ("L4", 121e12),
    "NvidiaTeslaA100": ("A100", 312e12),
    "NvidiaH100": ("H100", 989e12),
    "NvidiaRtxPro6000": ("RTX PRO 6000", 504e12),
}
"""Names: https://github.com/Kaggle/kaggle-cli/blob/main/docs/kernels.md; rates: the peaks of dense matrix products with
sums in float32, by NVIDIA's data sheets of 2018 to 2025. What is free at Kaggle is the T4, two of them a machine."""
SHARE_OF_PEAK = 0.2  # of networks on GPUs, a guess on the safe side: nobody has measured it
UNKNOWN_GPU = "NvidiaTeslaT4"  # is what another GPU is estimated as: most are newer

GIBIBYTE = 2**30
REFERENCE_PIXELS = 224 * 224  # that `Architecture.gigaflops` is for
TRAINING_COST = 3.0  # a step in passes: forward, and backward to activations and to weights
START_SECONDS = 25.0  # loading Keras, building and tracing the network
BASE_MEMORY = 1.5 * GIBIBYTE  # of a process with Keras in it
BYTES_PER_PIXEL_OF_BATCH = 1100.0  # activations kept for the backward pass, at most (VGG16)
SHARE_OF_MATRIX_PEAK = {"float32": 1.4, "half": 2.2}  # of networks against a float32 matrix product, on CPUs
SHARE_OF_MEMORY = 0.7  # of the machine's, that jobs side by side may take by default


@dataclass(frozen=True)
class Device:
    """One accelerator."""

    name: str  # as CUDA_VISIBLE_DEVICES has it
    kind: str = ""  # such as 'Tesla T4'; empty for one that is only named, and computes as the CPU does
    shared: bool = False  # other jobs compute on it at the same time

    @property
    def rate(self) -> float | None:
        """Operations a second, by a rough estimate; None where that is the CPU's."""
        return SHARE_OF_PEAK * GPUS[self.listed or UNKNOWN_GPU][1] if self.kind else None

    @property
    def listed(self) -> str | None:
        """Its entry in `GPUS`; None for others."""
        return next((name for name, (word, _) in GPUS.items() if re.search(rf"\b{word}\b", self.kind, re.I)), None)

    def environment(self) -> dict[str, str]:
        """Makes a process compute here and nowhere else."""
        return {VISIBLE: self.name} | (PART_OF_A_GPU if self.shared else {})


def find_devices() -> list[Device]:
    """Those that $STATEFARM_DEVICES names, else the GPUs that $CUDA_VISIBLE_DEVICES leaves and the backend finds."""
    text = os.environ.get(DEVICES, "").strip()
    if text:
        return [] if text == "none" else [_parse(part.strip()) for part in text.split(",")]
    query = ["nvidia-smi", "--query-gpu=index,uuid,name", "--format=csv,noheader"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[part.strip() for part in line.split(",", 2)] for line in listed.splitlines() if line.count(",") >= 2]
    visible = os.environ.get(VISIBLE)
    names = [row[0] for row in rows] if visible is None else [name.strip() for name in visible.split(",")]

    def kind(name: str) -> str:  # a UUID may be shortened, or that of a part of a GPU
        own = (row[2] for row in rows if name == row[0] or row[1].startswith(name) or name.startswith("MIG-"))
        return next(own, "") if name else ""

    found = [Device(name, kind(name)) for name in names if kind(name)]
    return found if found and _is_usable(found[0].kind) else []


def _parse(text: str) -> Device:
    match = re.fullmatch(r"([\w:-]+)(?:=([\w -]+))?", text)
    if not match:
        raise UserError(f"${DEVICES}: expected names such as 0,1 or 0=T4,1=T4, or none, found {text!r}.")
    return Device(match[1], match[2] or "")


@functools.cache
def _gpu_precision() -> str:
    """What the backend would compute in on its GPU, or 'none'; asked in another process: it takes seconds."""
    code = (
        "from models.finetuning import runtime; "
        "print(runtime.choose_precision('auto')[0] if runtime.has_accelerator() else 'none')"
    )
    command = [sys.executable, "-c", code]
    asked = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    return asked.stdout.strip().rpartition("\n")[2] or "none"


@functools.cache
def _is_usable(kind: str) -> bool:
    """Whether the backend finds the GPU that the driver lists; reported once where it does not."""
    found = _gpu_precision() != "none"
    if not found:
        print(
            f"note: there is a GPU ({kind}), but {keras_backend()} does not find it, so this computes on the CPU. How "
            "to install it with CUDA: the first lines of requirements.txt.",
            file=sys.stderr,
        )
    return found


def resolve_precision(asked: str, devices: Sequence[Device]) -> str:
    """The dtype policy of a run, so that all its folds compute in the same one."""
    if asked != "auto":
        return asked
    if any(device.kind for device in devices) and _gpu_precision() != "none":
        return _gpu_precision()
    return "mixed_bfloat16" if runtime.expects_bfloat16("auto") else "float32"


def side_by_side(asked: int | None, quick: bool, jobs: int, memory: int, devices: Sequence[Device]) -> int:
    """As how many jobs divide the machine: as asked, or one on each GPU, or without any two; of --quick one a core.

    That decides how sums are rounded, so it depends on the machine's memory, never on what of it is free just now.
    """
    if asked:
        return asked
    cores = environment.cores()
    fitting = max(1, int(SHARE_OF_MEMORY * environment.total_memory()) // memory)
    return min(jobs, len(devices) or min(fitting, cores if quick else min(cores, 2)))


@dataclass(frozen=True)
class Needs:
    """Estimates for a run, in bytes and seconds."""

    disk: int  # of the run's outputs
    cache_disk: int  # of decoded images besides, as far as there is room
    memory: int  # of the jobs that run at a time
    seconds: float


def job_disk(architecture: Architecture, images: float) -> float:
    """Bytes of one fold's outputs, with tables of so many images in all."""
    return 2 * architecture.weight_bytes + images * 2 * 2048


def job_memory(architecture: Architecture, recipe: Recipe) -> int:
    """Bytes of one job's process."""
    pixels = recipe.image_size.height * recipe.image_size.width
    batch = max(recipe.batch_size * with_test_images(recipe), 64 / TRAINING_COST) * pixels * BYTES_PER_PIXEL_OF_BATCH
    return int(BASE_MEMORY + 6 * architecture.weight_bytes + batch)


def with_test_images(recipe: Recipe) -> float:
    """Images of a training step for each labelled one: with pseudo-labels, test images are beside them."""
    return 1 + (1 / recipe.pseudo_ratio if recipe.pseudo_labels else 0)


def job_seconds(
    architecture: Architecture, recipe: Recipe, train_images: int, test_images: int, folds: int, rate: float
) -> float:
    """Seconds that one fold of `folds` takes, by its operations, of which the machine does `rate` a second."""
    pixels = recipe.image_size.height * recipe.image_size.width
    held_out = train_images / folds
    training = train_images - held_out
    if recipe.train_images:
        training = min(training, recipe.train_images)
    training *= with_test_images(recipe)
    epochs = recipe.epochs + recipe.head_epochs
    passes = epochs * (TRAINING_COST * training + held_out) + training + 2 * held_out + test_images
    passes += recipe.tta * (held_out + test_images)
    operations = architecture.gigaflops * architecture.slowdown * 1e9 * pixels / REFERENCE_PIXELS
    return START_SECONDS + passes * operations / rate


def processor_rate(bfloat16: bool) -> float:
    """Operations a second of a network on this machine's CPU, by a short measurement of a matrix product."""
    import numpy as np

    size = 1024
    matrix = np.ones((size, size), np.float32)
    best = min(timeit.repeat(lambda: matrix @ matrix, number=1, repeat=5))
    return 2 * size**3 / best * SHARE_OF_MATRIX_PEAK["half" if bfloat16 else "float32"]


def check(needs: Needs, run: Path, cache: Path, devices: Sequence[Device]) -> str:
    """The lines that say what is needed and what is there; too little is an error, but not for the cache."""
    free, free_there, memory = free_bytes(run), free_bytes(cache), environment.available_memory()
    if needs.memory > memory:
        raise UserError(
            f"this needs about {needs.memory / GIBIBYTE:.1f} GiB of memory, {memory / GIBIBYTE:.1f} GiB are available. "
            "Try a smaller --batch-size, a smaller --image-size, fewer --models, --jobs 1, or --quick."
        )
    if needs.disk > free:
        raise UserError(
            f"this writes about {needs.disk / GIBIBYTE:.1f} GiB, {free / GIBIBYTE:.1f} GiB are free. Free some "
            "space, or try fewer --models or --folds, or --quick."
        )
    decoded = f" and {needs.cache_disk / GIBIBYTE:.1f} GiB of decoded images (as far as there is room)"
    elsewhere = f", {free_there / GIBIBYTE:.0f} GiB on the cache's disk" if free_there != free else ""
    where = named([device.kind for device in devices if device.kind]) or f"this machine's {environment.cores()} cores"
    unknown = [device.kind for device in devices if device.kind and not device.listed]
    like = f" (as if {named(sorted(set(unknown)))} were a {GPUS[UNKNOWN_GPU][0]}: its speed is not known)"
    return (
        f"disk     {needs.disk / GIBIBYTE:.1f} GiB{decoded}; {free / GIBIBYTE:.0f} GiB are free{elsewhere}\n"
        f"memory   about {needs.memory / GIBIBYTE:.1f} GiB; {memory / GIBIBYTE:.0f} GiB are available\n"
        f"time     about {duration(needs.seconds)} on {where}, by a rough estimate{like if unknown else ''}"
    )


def duration(seconds: float) -> str:
    """'40 s', '12 min', '3.5 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} h"


def device_of_slot(slot: int, slots: int, devices: Sequence[Device]) -> Device | None:
    """The device of one of so many slots, which share the devices where there are more slots; None without devices."""
    return dataclasses.replace(devices[slot % len(devices)], shared=slots > len(devices)) if devices else None
