"""Training jobs: one model on one fold as a command, what jobs took, and which starts when before a deadline.

With a deadline, jobs that can resume come first, since part of them is paid for. Then fold 0 of every model, the
shortest first, then fold 1 of every model, and so on: a second network of another kind adds more to a blend than a
second fold of the same one, and the blend is evaluated on the folds that all its models have. A job that cannot finish
any more is passed over for a shorter one that can.
"""

import argparse
import contextlib
import re
import shlex
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from common.errors import UserError
from common.files import read_json, write_json
from common.run_folder import REPOSITORY, FoldFolder

UNMEASURED_MARGIN = 1.5  # on estimates by operations alone
SCALED_MARGIN = 1.25  # on estimates that other models' measured times correct
MEASURED_MARGIN = 1.1  # on the measured time of other folds of the same model
LEAST_REST = 0.25  # of a job that resumes: the epoch that was lost, and the predictions
BLEND_SHARE, BLEND_MOST = 0.1, 600.0  # of the budget, and seconds: kept for the blend


@dataclass(frozen=True)
class Job:
    """One model on one fold. A bottleneck model's folds are one job, since they share one pass over the images."""

    model: str  # its folder in the run
    folds: tuple[int | str, ...]
    script: str  # in models/, by its name
    config: Path  # that the script reads
    inputs: tuple[Path, ...]  # everything that it reads: configuration, data root, weights, fold table
    outputs: tuple[FoldFolder, ...]
    side_by_side: int = 1  # into how many parts the machine is divided; the job takes one
    threads: int | None = None  # cores that it computes on; None is every core
    gpu: bool = False  # whether it computes on an accelerator, or on a part of one
    memory: int = 0  # bytes of its process
    seconds: float = 0.0  # from start to end, by an estimate
    resumes: bool = False  # an earlier start left something to resume from

    def __str__(self) -> str:
        return f"{self.model}, fold {' '.join(map(str, self.folds))}"

    @property
    def command(self) -> list[str]:
        """Its command on this machine, to be run in the repository's root."""
        config = self.config.resolve()
        shown = config.relative_to(REPOSITORY) if config.is_relative_to(REPOSITORY) else config
        return [sys.executable, *words_of(self.script, shown, self.folds)]

    def as_json(self) -> dict[str, Any]:
        """For people with a scheduler of their own."""
        return {
            "model": self.model,
            "folds": list(self.folds),
            "command": shlex.join(["python", *self.command[1:]]),
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


class Durations:
    """runs/NAME/durations.json: what jobs took so far. Estimates rest on those of this `machine`, which is in words."""

    def __init__(self, path: Path, machine: str) -> None:
        self.path, self.machine = path, machine
        self.rows: list[dict[str, Any]] = []
        self._spent = Counter[tuple[str, str]]()  # seconds of starts that did not finish, by model and fold
        self._finished: dict[str, list[tuple[float, float]]] = defaultdict(list)  # seconds, their ratio to estimates
        with contextlib.suppress(UserError, KeyError, TypeError):  # not there, or corrupted: estimates are rougher
            for row in read_json(path):
                self._count(row)

    def add(self, job: Job, seconds: float, ended: str) -> None:
        """Keeps how long a job ran, and how it ended: 'finished', 'stopped', 'crashed', 'failed' or 'lost'."""
        row = {"model": job.model, "fold": " ".join(map(str, job.folds)), "seconds": round(seconds, 1), "ended": ended}
        self._count(row | {"estimate": round(job.seconds, 1), "on": self.machine})
        with contextlib.suppress(UserError):  # a full disk
            write_json(self.path, self.rows)

    def _count(self, row: dict[str, Any]) -> None:
        model, seconds, estimate, ended = row["model"], row["seconds"], row["estimate"], row["ended"]
        if row["on"] == self.machine and ended == "finished":
            seconds += self._spent.pop((model, row["fold"]), 0.0)
            self._finished[model].append((seconds, seconds / max(estimate, 1e-9)))
        elif row["on"] == self.machine and ended in ("stopped", "crashed"):
            self._spent[model, row["fold"]] += seconds
        self.rows.append(row)

    def seconds(self, job: Job) -> float:
        """How long a job will still take here, with a margin for what is not known."""
        if measured := self._finished.get(job.model):
            in_all = MEASURED_MARGIN * statistics.mean(seconds for seconds, _ in measured)
        elif self._finished:
            ratios = [statistics.mean(ratio for _, ratio in own) for own in self._finished.values()]
            in_all = SCALED_MARGIN * job.seconds * max(ratios)
        else:
            in_all = UNMEASURED_MARGIN * job.seconds
        spent = self._spent[job.model, " ".join(map(str, job.folds))] if job.resumes else 0.0
        return max(in_all - spent, LEAST_REST * in_all)


@dataclass(frozen=True)
class Deadline:
    """A time budget (--time-budget), in seconds."""

    started: float  # the clock, since 1970
    budget: float  # in all

    @property
    def passed(self) -> float:
        """Seconds since the clock was started."""
        return time.time() - self.started

    @property
    def left(self) -> float:
        """Seconds until all jobs have to be finished, so that there is time for the blend."""
        return self.budget - min(BLEND_SHARE * self.budget, BLEND_MOST) - self.passed


def ordered(jobs: Sequence[Job], durations: Durations) -> list[Job]:
    """By what they bring: what can resume, then breadth before depth, the shortest first."""
    return sorted(
        jobs, key=lambda job: (not job.resumes, str(job.folds[0]).zfill(3), durations.seconds(job), job.model)
    )


def next_job(jobs: Sequence[Job], durations: Durations, left: float) -> Job | None:
    """The most useful job that can finish in `left` seconds; None where none can."""
    return next((job for job in ordered(jobs, durations) if durations.seconds(job) <= left), None)


class Entry(NamedTuple):
    """One line of the timetable: seconds from now, and the slot."""

    starts: float
    ends: float
    slot: int
    job: Job


def timetable(
    jobs: Sequence[Job], durations: Durations, slots: int, left: float | None
) -> tuple[list[Entry], list[Job]]:
    """What starts when, with so many `slots`, and the jobs for which there is no time.

    Args:
        left: seconds until everything has to be finished; None where there is no deadline, so no order and no margin.
    """
    waiting, entries = list(jobs), list[Entry]()
    free_at = [0.0] * slots
    while waiting:
        starts = min(free_at)
        job = waiting[0] if left is None else next_job(waiting, durations, left - starts)
        if job is None:  # nor in a slot that is free later
            break
        waiting.remove(job)
        slot = free_at.index(starts)
        free_at[slot] = starts + (job.seconds if left is None else durations.seconds(job))
        entries.append(Entry(starts, free_at[slot], slot, job))
    return entries, ordered(waiting, durations)


def described(entries: Sequence[Entry], left_out: Sequence[Job], slots: Sequence[str], now: float = 0.0) -> str:
    """The timetable as lines for the terminal; `slots` are names, `now` the seconds since the clock was started."""
    width = max([len(name) for name in slots] + [2])
    lines = [f"    starts      ends  {'on':<{width}}  job"]
    for entry in entries:
        note = ", resumes" if entry.job.resumes else ""
        starts, ends = clock_time(now + entry.starts), clock_time(now + entry.ends)
        lines.append(f"{starts:>10}{ends:>10}  {slots[entry.slot]:<{width}}  {entry.job}{note}")
    if left_out:
        lines.append(f"no time for: {'; '.join(map(str, left_out))}")
    return "\n".join(lines)


def clock_time(seconds: float) -> str:
    """'8:30:00'"""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def read_budget(text: str) -> float:
    """Seconds of '8h30m', '45m', '90s'; for the command line."""
    match = re.fullmatch(r"(?:(\d{1,4})h)?(?:(\d{1,6})m)?(?:(\d{1,8})s)?", text)
    hours, minutes, seconds = [int(number or 0) for number in match.groups()] if match else (0, 0, 0)
    if not hours + minutes + seconds:
        raise argparse.ArgumentTypeError(f"expected hours, minutes, seconds such as 8h30m or 45m, found {text!r}")
    return 3600.0 * hours + 60 * minutes + seconds
