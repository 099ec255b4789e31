"""What there is to compute on, and what a run needs of it: accelerators, memory, disk, time.

Estimates come from the networks' operations, a short measurement of this machine, and a table of GPUs.
"""

import dataclasses
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common import machine
from common.environment import keras_backend
from common.errors import UserError, named
from common.files import free_bytes
from common.run_folder import REPOSITORY
from models.finetuning import runtime
from models.finetuning.architecture import Architecture, Recipe

DEVICES = "STATEFARM_DEVICES"  # '0,1' or '0=T4,1=T4'; 'none' for no accelerator
VISIBLE = "CUDA_VISIBLE_DEVICES"  # what TensorFlow and JAX look for
FOUND = "STATEFARM_GPU_PRECISION"  # the dtype policy that the backend chose for its GPU, or 'none': asked once
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
    """One accelerator.

    Attributes:
        name: as CUDA_VISIBLE_DEVICES names it.
        kind: such as 'Tesla T4'; empty for one that is only named, and computes as the CPU does.
        shared: whether other jobs compute on it at the same time.
    """

    name: str
    kind: str = ""
    shared: bool = False

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
    """Those that $STATEFARM_DEVICES names, else the GPUs that $CUDA_VISIBLE_DEVICES leaves to this process.

    A GPU that the driver lists and the backend does not find, since it was installed without CUDA, counts as none.

    Raises:
        UserError: $STATEFARM_DEVICES is no such list.
    """
    text = os.environ.get(DEVICES, "").strip()
    if text:
        return [] if text == "none" else [_parse(part.strip()) for part in text.split(",")]
    query = ["nvidia-smi", "--query-gpu=index,uuid,name", "--format=csv,noheader"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[part.strip() for part in line.split(",", 2)] for line in listed.splitlines() if line.count(",") >= 2]
    kinds = {name: row[2] for row in rows for name in row[:2]}
    visible = os.environ.get(VISIBLE)
    names = [row[0] for row in rows] if visible is None else [name.strip() for name in visible.split(",")]
    found = [Device(name, kinds[name]) for name in names if name in kinds]
    return found if found and _gpu_precision(found[0]) != "none" else []


def _parse(text: str) -> Device:
    match = re.fullmatch(r"([\w:-]+)(?:=([\w -]+))?", text)
    if not match:
        raise UserError(f"${DEVICES}: expected names such as 0,1 or 0=T4,1=T4, or none, found {text!r}.")
    return Device(match[1], match[2] or "")


def _gpu_precision(device: Device | None) -> str:
    """What the backend would compute in on its GPU, or 'none'; asked once, in another process: it takes seconds."""
    if FOUND not in os.environ:
        code = (
            "from models.finetuning import runtime; "
            "print(runtime.choose_precision('auto')[0] if runtime.has_accelerator() else 'none')"
        )
        asked = subprocess.run(
            [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        os.environ[FOUND] = asked.stdout.strip().rpartition("\n")[2] or "none"
        if os.environ[FOUND] == "none" and device:
            print(
                f"note: there is a GPU ({device.kind}), but {keras_backend()} does not find it, so this computes on "
                "the CPU. How to install it with CUDA: the first lines of requirements.txt.",
                file=sys.stderr,
            )
    return os.environ[FOUND]


def resolve_precision(asked: str, devices: Sequence[Device]) -> str:
    """The dtype policy of a run, so that all its folds compute in the same one."""
    if asked != "auto":
        return asked
    if any(device.kind for device in devices):
        found = _gpu_precision(None)
        if found != "none":
            return found
    return "mixed_bfloat16" if runtime.expects_bfloat16("auto") else "float32"


def side_by_side(asked: int | None, quick: bool, jobs: int, memory: int, devices: Sequence[Device]) -> int:
    """As how many jobs of one kind divide the machine: one on each GPU; without any, one on each core where images are
    small, else two.

    That decides how sums are rounded, so it depends on the machine's memory, never on what of it is free just now.

    Args:
        asked: by a person (--jobs), which is taken as it is; None is the default.
        jobs: how many there are in all.
        memory: bytes of one job's process.
    """
    if asked:
        return asked
    cores = machine.cores()
    fitting = max(1, int(SHARE_OF_MEMORY * machine.total_memory()) // memory)
    return min(jobs, len(devices) or min(fitting, cores if quick else min(cores, 2)))


@dataclass(frozen=True)
class Needs:
    """Estimates for a run.

    Attributes:
        disk: bytes of the run's outputs.
        cache_disk: bytes of decoded images besides, as far as there is room.
        memory: bytes of the jobs that run at a time.
        seconds: on this machine's CPU, or on its accelerators.
    """

    disk: int
    cache_disk: int
    memory: int
    seconds: float


def estimate(
    models: Sequence[tuple[Architecture, Recipe, int]],
    *,
    train_images: int,
    test_images: int,
    folds: int,
    rate: float,
    at_a_time: int = 1,
) -> Needs:
    """Estimates what is left of a run.

    Args:
        models: each with its recipe and the number of its folds that are not finished.
        folds: of the run.
        rate: operations a second of the whole machine.
        at_a_time: jobs.
    """
    seconds, disk, memory = 20.0, 0, 0
    held_out = train_images / folds
    for architecture, recipe, left in models:
        seconds += left * job_seconds(architecture, recipe, train_images, test_images, folds, rate)
        outputs = 2 * architecture.weight_bytes + (test_images + held_out) * 2 * 2048
        disk += int(left * outputs + 4 * architecture.weight_bytes)
        memory = max(memory, job_memory(architecture, recipe))
    sizes = {(recipe.image_size, recipe.crop) for _, recipe, _ in models}
    cache = sum(3 * size.height * size.width * (train_images + test_images) for size, _ in sizes)
    return Needs(disk, cache, at_a_time * memory, seconds)


def job_memory(architecture: Architecture, recipe: Recipe) -> int:
    """Bytes of one job's process."""
    pixels = recipe.image_size.height * recipe.image_size.width
    batch = max(recipe.batch_size, 64 / TRAINING_COST) * pixels * BYTES_PER_PIXEL_OF_BATCH
    return int(BASE_MEMORY + 6 * architecture.weight_bytes + batch)


def job_seconds(
    architecture: Architecture, recipe: Recipe, train_images: int, test_images: int, folds: int, rate: float
) -> float:
    """Seconds that one fold takes, by its operations.

    Args:
        train_images, test_images: of the data.
        folds: of the run.
        rate: operations a second.
    """
    pixels = recipe.image_size.height * recipe.image_size.width
    held_out = train_images / folds
    training = train_images - held_out
    if recipe.train_images:
        training = min(training, recipe.train_images)
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
    matrix @ matrix
    best = float("inf")
    for _ in range(4):
        started = time.perf_counter()
        matrix @ matrix
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best * SHARE_OF_MATRIX_PEAK["half" if bfloat16 else "float32"]


def check(needs: Needs, run: Path, cache: Path, devices: Sequence[Device]) -> str:
    """The lines that say what is needed and what is there. The cache takes what it finds; the run cannot.

    Args:
        run, cache: the folders, which need not be there yet.

    Raises:
        UserError: memory or disk cannot suffice.
    """
    free, free_there, memory = free_bytes(run), free_bytes(cache), machine.available_memory()
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
    where = named([device.kind for device in devices if device.kind]) or f"this machine's {machine.cores()} cores"
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
