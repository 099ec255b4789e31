"""Which job starts when, so that as much as possible is finished when the time is up; and what jobs took so far.

Jobs that can resume come first, since part of them is paid for. Then fold 0 of every model, the shortest first, then
fold 1 of every model, and so on: a second network of another kind adds more to a blend than a second fold of the same
one, and the blend is evaluated on the folds that all its models have. A job that cannot finish any more is passed over
for a shorter one that can.
"""

import argparse
import contextlib
import dataclasses
import re
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import read_json, write_json
from pipeline.jobs import Job

UNMEASURED_MARGIN = 1.5  # on estimates by operations alone
SCALED_MARGIN = 1.25  # on estimates that other models' measured times correct
MEASURED_MARGIN = 1.1  # on the measured time of other folds of the same model
LEAST_REST = 0.25  # of a job that resumes: the epoch that was lost, and the predictions
BLEND_SHARE, BLEND_MOST = 0.1, 600.0  # of the budget, and seconds: kept for the blend
ROW = {"model", "fold", "seconds", "ended", "estimate", "on"}


@dataclass
class Pace:
    """How long jobs took here, to estimate how long the others will take."""

    measured: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # by model, seconds
    ratios: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # by model, to the estimate

    def add(self, model: str, seconds: float, estimate: float) -> None:
        """A job has finished."""
        self.measured[model].append(seconds)
        self.ratios[model].append(seconds / max(estimate, 1e-9))

    def seconds(self, job: Job) -> float:
        """How long a job will still take, with a margin for what is not known."""
        if self.measured[job.model]:
            in_all = MEASURED_MARGIN * _mean(self.measured[job.model])
        elif any(self.ratios.values()):
            in_all = SCALED_MARGIN * job.seconds * max(_mean(own) for own in self.ratios.values() if own)
        else:
            in_all = UNMEASURED_MARGIN * job.seconds
        return max(in_all - job.spent, LEAST_REST * in_all)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


class Durations:
    """runs/NAME/durations.json: what jobs took, in this start and in earlier ones, on whatever machine.

    Args:
        path: of the file.
        machine: what measured times are comparable on, in words.
    """

    def __init__(self, path: Path, machine: str) -> None:
        self.path, self.machine = path, machine
        self.rows: list[dict[str, Any]] = _rows_of(path)

    def add(self, job: Job, seconds: float, ended: str) -> None:
        """Keeps how long a job ran, and how it ended: 'finished', 'stopped', 'crashed', 'failed' or 'lost'."""
        row = {"model": job.model, "fold": " ".join(map(str, job.folds)), "seconds": round(seconds, 1), "ended": ended}
        self.rows.append(row | {"estimate": round(job.seconds, 1), "on": self.machine})
        with contextlib.suppress(UserError):  # a full disk: without it the estimates are only rougher
            write_json(self.path, self.rows)

    def resumed(self, job: Job) -> Job:
        """The job with the seconds that its earlier, unfinished starts took here."""
        return (
            dataclasses.replace(job, spent=self._spent(job.model, " ".join(map(str, job.folds))))
            if job.resumes
            else job
        )

    def pace(self) -> Pace:
        """What the jobs that finished on such a machine took, all their starts together."""
        pace = Pace()
        for row in self._here():
            if row["ended"] == "finished":
                pace.add(row["model"], row["seconds"] + self._spent(row["model"], row["fold"]), row["estimate"])
        return pace

    def _spent(self, model: str, fold: str) -> float:
        rows = [row for row in self._here() if (row["model"], row["fold"]) == (model, fold)]
        return float(sum(row["seconds"] for row in rows if row["ended"] in ("stopped", "crashed")))

    def _here(self) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["on"] == self.machine]


def _rows_of(path: Path) -> list[dict[str, Any]]:
    """What the file holds; nothing where it is corrupted: without it the estimates are only rougher."""
    if not path.exists():
        return []
    try:
        rows = read_json(path)
        if not isinstance(rows, list) or not all(isinstance(row, dict) and set(row) >= ROW for row in rows):
            raise UserError(f"{path}: expected what jobs took, found something else.")
    except UserError as error:
        print(f"note: {error} What jobs took before is ignored.", file=sys.stderr)
        return []
    return rows


@dataclass(frozen=True)
class Deadline:
    """A time budget (--time-budget).

    Attributes:
        started: when the clock was started, in seconds since 1970.
        budget: seconds in all.
    """

    started: float
    budget: float

    @property
    def passed(self) -> float:
        """Seconds since the clock was started."""
        return time.time() - self.started

    @property
    def left(self) -> float:
        """Seconds until all jobs have to be finished, so that there is time for the blend."""
        return self.budget - min(BLEND_SHARE * self.budget, BLEND_MOST) - self.passed


def ordered(jobs: Sequence[Job], pace: Pace) -> list[Job]:
    """By what they bring: what can resume, then breadth before depth, the shortest first."""
    return sorted(jobs, key=lambda job: (not job.resumes, str(job.folds[0]).zfill(3), pace.seconds(job), job.model))


def next_job(jobs: Sequence[Job], pace: Pace, left: float) -> Job | None:
    """The most useful job that can finish in `left` seconds; None where none can."""
    return next((job for job in ordered(jobs, pace) if pace.seconds(job) <= left), None)


@dataclass(frozen=True)
class Entry:
    """One line of the timetable: seconds from now, and the slot."""

    starts: float
    ends: float
    slot: int
    job: Job


def timetable(jobs: Sequence[Job], pace: Pace, slots: int, left: float | None) -> tuple[list[Entry], list[Job]]:
    """What starts when, if everything takes as long as is expected now.

    Args:
        slots: jobs at a time.
        left: seconds until everything has to be finished; None where there is no deadline, so no order and no margin.

    Returns:
        the entries in the order of their start, and the jobs for which there is no time.
    """
    waiting, entries = list(jobs), list[Entry]()
    free_at = [0.0] * slots
    while waiting:
        slot = min(range(slots), key=lambda one: free_at[one])
        job = waiting[0] if left is None else next_job(waiting, pace, left - free_at[slot])
        if job is None:  # nor in a slot that is free later
            break
        waiting.remove(job)
        ends = free_at[slot] + (job.seconds if left is None else pace.seconds(job))
        entries.append(Entry(free_at[slot], ends, slot, job))
        free_at[slot] = ends
    return entries, ordered(waiting, pace)


def described(entries: Sequence[Entry], left_out: Sequence[Job], slots: Sequence[str], now: float = 0.0) -> str:
    """The timetable as lines for the terminal.

    Args:
        slots: what they are called.
        now: seconds since the clock was started.
    """
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
    counts = [int(number or 0) for number in match.groups()] if match else []
    seconds = sum(count * unit for count, unit in zip(counts, (3600, 60, 1), strict=False))
    if not seconds:
        raise argparse.ArgumentTypeError(f"expected hours, minutes, seconds such as 8h30m or 45m, found {text!r}")
    return float(seconds)
