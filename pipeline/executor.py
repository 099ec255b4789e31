"""What runs training jobs: as many at a time as there are slots, one retry, a deadline, and a clean stop.

This machine's executor is in `local.py`, a Ray cluster's in `ray.py`. What an exit status of a job means is said once,
in `common.errors`.
"""

import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from common.errors import DIVERGED, OUT_OF_MEMORY, STOPPED, USER_ERROR
from common.terminal import say
from pipeline.jobs import Job, spent
from pipeline.resources import duration
from pipeline.schedule import Deadline, Durations, clock_time, next_job

SMALLER = "alone, with one thread that reads images and predictions in quarter batches"
ADVICE = (
    "A smaller --batch-size or --image-size takes less memory (under another --run or --model-name: they change the "
    "result), and so does --jobs 1. The same command tries it again."
)


@dataclass(frozen=True)
class Result:
    """What became of a job.

    Attributes:
        ended: 'finished', 'failed', 'stopped' (it resumes) or 'waiting' (it was not started).
        status: the exit status of its last process; None where there was none.
    """

    job: Job
    ended: str
    status: int | None = None


@dataclass
class _Running:
    job: Job
    handle: Any
    started: float
    share: Fraction  # of the machine


class Executor(ABC):
    """Runs jobs, as many at a time as there are slots.

    A job that was killed or ran out of memory is retried once, alone and with less memory. A user's mistake, or a
    request to stop, ends everything: no other job starts. Any other failure is left behind, and the others go on.

    Another place to run jobs is a subclass with the six methods below, and a line in `pipeline.train.make_executor`; on
    other machines also a `pipeline.cluster.Cluster`.
    Its rules: a job in another process gets a pipe as its standard input and `OF_EXECUTOR` in its environment, so that
    it ends when this process does (`models/finetuning/interface.py`; without the variable it does not listen); what a
    job prints reaches the terminal, or its `log.txt`; `stop` returns within `errors.STOPS_WITHIN` seconds; a job's
    seconds count from `start`.

    Args:
        durations: what jobs took, which is kept.
    """

    def __init__(self, durations: Durations) -> None:
        self.durations = durations

    @abstractmethod
    def start(self, job: Job, slot: int, retry: bool) -> Any:
        """Starts a job; returns a handle for `wait` and `stop`."""

    @abstractmethod
    def wait(self, handles: Sequence[Any], seconds: float) -> None:
        """Returns when one of these jobs may have ended, or after so many seconds."""

    @abstractmethod
    def status(self, handle: Any) -> int | None:
        """The exit status of a job, below 0 the signal that ended it; None while it runs."""

    @abstractmethod
    def stop(self, handles: Collection[Any]) -> None:
        """Ends jobs, first by SIGTERM, then by SIGKILL."""

    @abstractmethod
    def slots_for(self, job: Job) -> int:
        """Into how many parts the machine is divided now, of which such a job takes one."""

    @abstractmethod
    def slot_name(self, job: Job, slot: int) -> str:
        """What a slot is called: 'CPU', 'Tesla T4 0'."""

    def run(self, jobs: Sequence[Job], deadline: Deadline | None = None) -> list[Result]:
        """Runs jobs in their order; with a deadline in the order of what they bring, as far as they can finish.

        Returns:
            the results, in the order in which the jobs ended.
        """
        waiting, running, results = list(jobs), dict[int, _Running](), list[Result]()
        retried: dict[tuple[str, tuple[int | str, ...]], str] = {}  # what happened to the jobs that are tried again
        pace = self.durations.pace()

        def end(slot: int, ended: str, status: int | None, keep: bool = True) -> Job:
            one = running.pop(slot)
            seconds = time.time() - one.started
            self.durations.add(one.job, seconds, ended)
            if ended == "finished":
                pace.add(one.job.model, seconds + one.job.spent, one.job.seconds)
            if keep:
                results.append(Result(one.job, ended, status))
            return spent(one.job, seconds)

        def settle(slot: int, status: int) -> None:
            job = running[slot].job
            key = job.model, job.folds
            if status == 0:
                end(slot, "finished", status)
            elif status == STOPPED:
                end(slot, "stopped", status)
            elif not can_retry(status):
                reason = next(filter(None, [folder.failure() for folder in job.outputs]), what_happened(status))
                end(slot, "failed", status)
                for folder in job.outputs:
                    folder.fail(reason)
                if status not in (USER_ERROR, DIVERGED):  # it has printed these
                    say(f"error: {job} {reason}")
            elif key in retried:
                what = f"{retried[key]}; tried again with less memory it {what_happened(status)}"
                for folder in end(slot, "failed", status).outputs:
                    folder.fail(what)
                say(f"error: {job} {what}. {ADVICE}")
            else:
                retried[key] = what_happened(status)
                waiting.append(end(slot, "crashed", status, keep=False))
                say(f"note: {job} {retried[key]}: once more, {SMALLER}")

        try:
            while True:
                over = any(result.status in (USER_ERROR, STOPPED) for result in results)
                while waiting and not over:
                    job = waiting[0] if deadline is None else next_job(waiting, pace, deadline.left)
                    if job is None:
                        break
                    retry = (job.model, job.folds) in retried
                    share = Fraction(1, 1 if retry else self.slots_for(job))
                    if sum(one.share for one in running.values()) + share > 1:
                        break
                    waiting.remove(job)
                    slot = min(set(range(len(running) + 1)) - set(running))
                    if deadline is not None:
                        say(
                            f"{clock_time(deadline.passed)}  {self.slot_name(job, slot)}: {job} starts, at most "
                            f"{duration(pace.seconds(job))} expected"
                        )
                    for folder in job.outputs:
                        folder.forget_failure()
                    running[slot] = _Running(job, self.start(job, slot, retry), time.time(), share)
                if not running:
                    return results + [Result(job, "waiting") for job in waiting]
                self.wait([one.handle for one in running.values()], deadline.left if deadline else 3600.0)
                for slot, one in sorted(running.items()):
                    status = self.status(one.handle)
                    if status is not None:
                        settle(slot, status)
                if deadline is not None and deadline.left <= 0:
                    self._stop_all(running, end)
        finally:
            self._stop_all(running, end)

    def _stop_all(self, running: dict[int, _Running], end: Any) -> None:
        self.stop([one.handle for one in running.values()])
        for slot, one in sorted(running.items()):
            status = self.status(one.handle)
            end(slot, "finished" if status == 0 else "stopped", status)


def can_retry(status: int) -> bool:
    """Whether another try, with less memory, may do better: a signal ended it, or it ran out of memory."""
    return status == OUT_OF_MEMORY or status < 0


def what_happened(status: int) -> str:
    """To a process that ended with this status, in words."""
    if status == -signal.SIGKILL:
        return "was killed (signal 9), probably out of memory"
    if status == OUT_OF_MEMORY:
        return "ran out of memory"
    return f"was ended by signal {-status}" if status < 0 else f"exited with status {status}, see above"
