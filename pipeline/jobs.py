"""A training job: one model on one fold, as a command with its inputs, its outputs and the resources that it needs."""

import dataclasses
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.run_folder import REPOSITORY, FoldFolder
from models.finetuning import weights
from models.finetuning.fold_run import FoldRun


@dataclass(frozen=True)
class Job:
    """One model on one fold. A bottleneck model's folds are one job, since they share one pass over the images.

    Attributes:
        model: the model's folder in the run.
        folds: the fold that it trains; several of a bottleneck model.
        script: the name of the script in models/ that does the work.
        config: the configuration file that the script reads.
        inputs: everything that it reads: configuration, data root, weights, fold table.
        outputs: the folders that it writes.
        side_by_side: into how many parts the machine is divided; the job takes one.
        threads: cores that it computes on; None is every core.
        gpu: whether it computes on an accelerator, or on a part of one.
        memory: bytes of its process.
        seconds: from start to end, by an estimate.
        resumes: an earlier start left something to resume from.
        spent: seconds that earlier starts took.
    """

    model: str
    folds: tuple[int | str, ...]
    script: str
    config: Path
    inputs: tuple[Path, ...]
    outputs: tuple[FoldFolder, ...]
    side_by_side: int = 1
    threads: int | None = None
    gpu: bool = False
    memory: int = 0
    seconds: float = 0.0
    resumes: bool = False
    spent: float = 0.0

    def __str__(self) -> str:
        return f"{self.model}, fold {' '.join(map(str, self.folds))}"

    @property
    def words(self) -> list[str]:
        """Its command without the interpreter, to be run in the repository's root."""
        config = self.config.resolve()
        shown = config.relative_to(REPOSITORY) if config.is_relative_to(REPOSITORY) else config
        return words_of(self.script, shown, self.folds)

    @property
    def command(self) -> list[str]:
        """Its command on this machine."""
        return [sys.executable, *self.words]

    def as_json(self) -> dict[str, Any]:
        """For people with a scheduler of their own."""
        return {
            "model": self.model,
            "folds": list(self.folds),
            "command": shlex.join(["python", *self.words]),
            "inputs": list(map(str, self.inputs)),
            "outputs": [str(folder.path) for folder in self.outputs],
            "cores": self.threads,
            "gpus": round(1 / self.side_by_side, 3) if self.gpu and self.side_by_side > 1 else int(self.gpu),
            "memory_bytes": self.memory,
            "expected_seconds": round(self.seconds),
        }


def words_of(script: str, config: Path, folds: Sequence[int | str]) -> list[str]:
    """The command that trains folds as a configuration file says, without the interpreter."""
    return [f"models/{script}.py", "--config", str(config), "--fold", *map(str, folds)]


def make_job(
    work: FoldRun, folds: Sequence[int | str], *, side_by_side: int, gpu: bool, memory: int, seconds: float
) -> Job:
    """The job that trains these folds of a model; its configuration file is written."""
    config = work.save()
    file = weights.weights_file(work.architecture, work.weights)
    inputs = [config, work.data, work.run.folds, *([file] if file else [])]
    return Job(
        model=work.model_name,
        folds=tuple(folds),
        script=work.script,
        config=config,
        inputs=tuple(inputs),
        outputs=tuple(work.of_fold(fold).folder for fold in folds),
        side_by_side=side_by_side,
        threads=work.threads,
        gpu=gpu,
        memory=memory,
        seconds=seconds,
        resumes=any(work.of_fold(fold).folder.has_outputs() for fold in folds),
    )


def listed(jobs: Sequence[Job]) -> str:
    """A JSON object a line, one for each job."""
    return "\n".join(json.dumps(job.as_json()) for job in jobs)


def spent(job: Job, seconds: float) -> Job:
    """The job after a start that took so long and did not finish it."""
    return dataclasses.replace(job, resumes=True, spent=job.spent + seconds)
