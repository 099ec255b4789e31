"""The state of a fold's training after an epoch, in one file, from which a killed training resumes."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np

from common.errors import UserError
from common.files import append_checksum, is_intact, written_whole


class DamagedCheckpointError(UserError):
    """A checkpoint that is not as it was written."""


@dataclasses.dataclass
class Progress:
    """How far training has come.

    Attributes:
        stage: number of the stage that the next epoch belongs to.
        epoch: epochs done in that stage.
        history: one row per finished epoch.
        best_loss: lowest held-out log loss so far.
        best_epoch: number of the epoch, counted over all stages, that reached it; 0 is before training.
        best: the variables of the network then, in the order of `network.variables`.
        precision: the dtype policy that it is trained in.
    """

    stage: int = 0
    epoch: int = 0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    best_loss: float = float("inf")
    best_epoch: int = 0
    best: list[np.ndarray] = dataclasses.field(default_factory=list)
    precision: str = ""


def save(path: Path, progress: Progress, network: keras.Model, optimizer: keras.optimizers.Optimizer | None) -> None:
    """Writes progress, the network's variables (seeds included) and the optimiser's state."""
    state = {key: value for key, value in dataclasses.asdict(progress).items() if key != "best"}
    arrays = {f"network_{i}": keras.ops.convert_to_numpy(v) for i, v in enumerate(network.variables)}
    if optimizer is not None:
        arrays |= {f"optimizer_{i}": keras.ops.convert_to_numpy(v) for i, v in enumerate(optimizer.variables)}
    arrays |= {f"best_{i}": value for i, value in enumerate(progress.best)}
    with written_whole(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, allow_pickle=False, state=np.array(json.dumps(state)), **arrays)
        stream.flush()
        append_checksum(temporary)  # the archive's own checksums leave out its directory


def load(path: Path) -> tuple[Progress, dict[str, np.ndarray]]:
    """Reads what `save` wrote.

    Raises:
        DamagedCheckpointError: the file is damaged.
        UserError: it cannot be read.
    """
    try:
        if not is_intact(path):
            raise ValueError("its checksum does not match")
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        progress = Progress(**json.loads(str(arrays.pop("state"))))
    except OSError as error:  # may be a transient error of the disk
        raise UserError(
            f"cannot read {path}: {error}. Start again, or delete it to train this fold from the start."
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # zip, npy and JSON readers each fail in their own way on damaged bytes
        raise DamagedCheckpointError(f"{path} is corrupted ({error}).") from error
    progress.best = ordered(arrays, "best")
    return progress, arrays


def ordered(arrays: dict[str, np.ndarray], prefix: str) -> list[np.ndarray]:
    """The arrays PREFIX_0, PREFIX_1, ... as a list."""
    count = sum(name.startswith(f"{prefix}_") for name in arrays)
    return [arrays[f"{prefix}_{number}"] for number in range(count)]


def assign(variables: list[Any], values: list[np.ndarray]) -> None:
    """Sets variables to values of the same shapes."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
