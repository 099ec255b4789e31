"""What a run will need: disk, memory and time, estimated before it starts from sizes and a short measurement."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

from common import machine
from common.errors import UserError, named
from common.files import free_bytes
from models.finetuning.architecture import Architecture
from models.finetuning.devices import Device
from models.finetuning.recipe import Recipe

GIBIBYTE = 2**30
REFERENCE_PIXELS = 224 * 224  # that `Architecture.gigaflops` is for
TRAINING_COST = 3.0  # a step in passes: forward, and backward to activations and to weights
PIECE_START_SECONDS = 25.0  # loading Keras, building and tracing the network
BASE_MEMORY = 1.5 * GIBIBYTE  # of a process with Keras in it
BYTES_PER_PIXEL_OF_BATCH = 1100.0  # activations kept for the backward pass, at most (VGG16)
SHARE_OF_MATRIX_PEAK = {"float32": 1.4, "half": 2.2}  # of networks against a float32 matrix product, on CPUs


@dataclasses.dataclass(frozen=True)
class Needs:
    """Estimates for one run.

    Attributes:
        disk: bytes of the run's outputs.
        cache_disk: bytes of decoded images besides, which can be done without.
        memory: bytes of the largest processes that run at a time.
        seconds: on this machine's CPU, or on its accelerators.
        accelerators: what they are; nothing for the CPU.
    """

    disk: int
    cache_disk: int
    memory: int
    seconds: float
    accelerators: str = ""


def estimate(
    models: list[tuple[Architecture, Recipe, int]],
    *,
    train_images: int,
    test_images: int,
    folds: int,
    bfloat16: bool,
    jobs: int = 1,
    devices: Sequence[Device] = (),
) -> Needs:
    """Estimates what is left of a run.

    Args:
        models: each with its recipe and the number of its folds that are not finished.
        folds: of the run.
        jobs: folds at a time.
        devices: accelerators that they compute on.
    """
    rate = sum(device.rate or 0.0 for device in devices) or processor_rate(bfloat16)
    seconds, disk, memory = 20.0, 0, 0
    sizes = set()
    for architecture, recipe, left in models:
        held_out = train_images / folds
        seconds += left * piece_seconds(architecture, recipe, train_images, test_images, folds, rate)
        outputs = 2 * architecture.weight_bytes + (test_images + held_out) * 2 * 2048
        disk += int(left * outputs + 4 * architecture.weight_bytes)
        memory = max(memory, fold_memory(architecture, recipe))
        sizes.add((recipe.image_size, recipe.crop))
    cache = sum(3 * size.height * size.width * (train_images + test_images) for size, _ in sizes)
    kinds = named([device.kind for device in devices])
    return Needs(disk=disk, cache_disk=cache, memory=jobs * memory, seconds=seconds, accelerators=kinds)


def fold_memory(architecture: Architecture, recipe: Recipe) -> int:
    """Bytes of one fold's process."""
    pixels = recipe.image_size.height * recipe.image_size.width
    batch = max(recipe.batch_size, 64 / TRAINING_COST) * pixels * BYTES_PER_PIXEL_OF_BATCH
    return int(BASE_MEMORY + 6 * architecture.weight_bytes + batch)


def piece_seconds(
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
    return PIECE_START_SECONDS + passes * architecture.gigaflops * 1e9 * pixels / REFERENCE_PIXELS / rate


def processor_rate(bfloat16: bool) -> float:
    """Operations a second of a network on this machine's CPU, by a short measurement."""
    return 1e9 * _matrix_gigaflops() * SHARE_OF_MATRIX_PEAK["half" if bfloat16 else "float32"]


def at_a_time(jobs: int, memory: int) -> int:
    """How many of `jobs` processes of so many bytes each find room in the memory that is free; at least one."""
    return max(1, min(jobs, machine.available_memory() // memory))


def check(needs: Needs, run: Path, cache: Path) -> str:
    """The lines that say what is needed and what is there. The cache takes what it finds; the run cannot.

    Args:
        run, cache: the folders, which need not be there yet.

    Raises:
        UserError: memory or disk cannot suffice.
    """
    free, free_there = free_bytes(run), free_bytes(cache)
    memory = machine.available_memory()
    if needs.memory > memory:
        raise UserError(
            f"this needs about {needs.memory / GIBIBYTE:.1f} GiB of memory, {memory / GIBIBYTE:.1f} GiB are available. "
            "Try a smaller --batch-size, a smaller --image-size, fewer --models, --jobs 1, or --quick."
        )
    if needs.disk > free:
        raise UserError(
            f"this writes about {needs.disk / GIBIBYTE:.1f} GiB, {free / GIBIBYTE:.1f} GiB are free. Make room, or try "
            "fewer --models or --folds, or --quick."
        )
    decoded = f" and {needs.cache_disk / GIBIBYTE:.1f} GiB of decoded images (as far as there is room)"
    elsewhere = f", {free_there / GIBIBYTE:.0f} GiB in the cache's place" if free_there != free else ""
    where = needs.accelerators or f"this machine's {machine.cores()} cores"
    return (
        f"disk     {needs.disk / GIBIBYTE:.1f} GiB{decoded}; {free / GIBIBYTE:.0f} GiB are free{elsewhere}\n"
        f"memory   about {needs.memory / GIBIBYTE:.1f} GiB; {memory / GIBIBYTE:.0f} GiB are available\n"
        f"time     about {duration(needs.seconds)} on {where}, by a rough estimate"
    )


def duration(seconds: float) -> str:
    """'40 s', '12 min', '3.5 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} h"


def _matrix_gigaflops() -> float:
    """Speed of a float32 matrix product here, in 1e9 operations a second; takes about 0.2 s."""
    import numpy as np

    size = 1024
    matrix = np.ones((size, size), np.float32)
    matrix @ matrix
    best = float("inf")
    for _ in range(4):
        begun = time.perf_counter()
        matrix @ matrix
        best = min(best, time.perf_counter() - begun)
    return 2 * size**3 / best / 1e9
