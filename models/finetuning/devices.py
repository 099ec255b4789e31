"""The accelerators that pieces compute on, one piece on each at a time: this machine's GPUs, or named ones."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from common.errors import UserError
from common.run_folder import REPOSITORY

VARIABLE = "STATEFARM_DEVICES"  # '0,1' or '0=T4,1=T4'; 'none' for no accelerator
VISIBLE = "CUDA_VISIBLE_DEVICES"  # what TensorFlow and JAX look for
USABLE = "STATEFARM_GPU_USABLE"  # 'yes' or 'no': whether the backend has found one, for processes that this one starts
PART_OF_A_GPU = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # not all its memory
RATES = {"T4": 13e12, "P100": 1.9e12}  # operations a second: a fifth of 65e12 in float16, of 9.3e12 in float32
OTHER_RATE = RATES["T4"]  # most GPUs that are not listed are newer


@dataclass(frozen=True)
class Device:
    """One accelerator.

    Attributes:
        name: as CUDA_VISIBLE_DEVICES names it.
        kind: such as 'Tesla T4'; nothing for one that is only named, and computes as the CPU does.
        shared: whether other processes compute on it at the same time.
    """

    name: str
    kind: str = ""
    shared: bool = False

    @property
    def rate(self) -> float | None:
        """Operations a second, by a rough estimate; None where that is the CPU's."""
        return next((rate for word, rate in RATES.items() if word in self.kind), OTHER_RATE) if self.kind else None

    def environment(self) -> dict[str, str]:
        """What tells a process to compute here and nowhere else."""
        return {VISIBLE: self.name} | (PART_OF_A_GPU if self.shared else {})


def device_at(place: int, places: int, devices: Sequence[Device]) -> Device | None:
    """The device of one of so many places, which share them where there are more places; None without devices."""
    return replace(devices[place % len(devices)], shared=places > len(devices)) if devices else None


def find_devices() -> list[Device]:
    """Those that $STATEFARM_DEVICES names, else the GPUs that $CUDA_VISIBLE_DEVICES leaves to this process.

    A GPU that the driver lists and the backend does not find, since it was installed without CUDA, counts as none.

    Raises:
        UserError: $STATEFARM_DEVICES is no such list.
    """
    text = os.environ.get(VARIABLE, "").strip()
    if text:
        return [] if text == "none" else [_parse(part.strip()) for part in text.split(",")]
    query = ["nvidia-smi", "--query-gpu=index,uuid,name", "--format=csv,noheader"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[part.strip() for part in line.split(",", 2)] for line in told.splitlines() if line.count(",") >= 2]
    kinds = {name: row[2] for row in rows for name in row[:2]}
    visible = os.environ.get(VISIBLE)
    names = [row[0] for row in rows] if visible is None else [name.strip() for name in visible.split(",")]
    found = [Device(name, kinds[name]) for name in names if name in kinds]
    return found if found and _usable(found[0]) else []


def _usable(device: Device) -> bool:
    """Whether the backend finds a GPU: asked once, in a process of its own, since to load it takes seconds."""
    if USABLE not in os.environ:
        ask = "from models.finetuning import runtime; raise SystemExit(0 if runtime.has_accelerator() else 1)"
        asked = subprocess.run([sys.executable, "-c", ask], cwd=REPOSITORY, capture_output=True, check=False)
        os.environ[USABLE] = "yes" if asked.returncode == 0 else "no"
        if asked.returncode:
            backend = os.environ.get("KERAS_BACKEND", "tensorflow")
            print(
                f"note: there is a GPU ({device.kind}), but {backend} does not find it, so this computes on the CPU. "
                "How to install it with CUDA: the first lines of requirements.txt.",
                file=sys.stderr,
            )
    return os.environ[USABLE] == "yes"


def _parse(text: str) -> Device:
    match = re.fullmatch(r"([\w:-]+)(?:=([\w -]+))?", text)
    if not match:
        raise UserError(f"${VARIABLE}: expected names such as 0,1 or 0=T4,1=T4, or none, found {text!r}.")
    return Device(match[1], match[2] or "")
