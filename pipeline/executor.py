"""What runs training jobs: as many at a time as there are slots, one retry, a deadline, and a clean stop.

`LocalExecutor` is this machine's; a Ray cluster's is in `ray.py`. What an exit status of a job means is said once, in
`common.errors`.
"""

import contextlib
import dataclasses
import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from common import environment
from common.environment import LESS_MEMORY, OF_EXECUTOR, pinned
from common.errors import DIVERGED, LABEL, LINE, OUT_OF_MEMORY, STOPPED, USER_ERROR, draw, held_back, say
from common.run_folder import REPOSITORY
from pipeline.jobs import Deadline, Durations, Job, clock_time, next_job
from pipeline.resources import Device, device_of_slot, duration

SMALLER = "alone, with one thread that reads images and predictions in quarter batches"
SMALLER_ENVIRONMENT = {LESS_MEMORY: "1", "MALLOC_ARENA_MAX": "2", "TF_GPU_ALLOCATOR": "cuda_malloc_async"}
ADVICE = (
    "A smaller --batch-size or --image-size takes less memory (under another --run or --model-name: they change the "
    "result), and so does --jobs 1. The same command tries it again."
)
POLL_SECONDS = 0.2
GRACE_SECONDS = 2.0  # for a process to end after SIGTERM


@dataclass(frozen=True)
class Result:
    """What became of a job."""

    job: Job
    ended: str  # 'finished', 'failed', 'stopped' (it resumes) or 'waiting' (it was not started)
    status: int | None = None  # of its last process


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

    Another place to run jobs is a subclass with the six methods below, and a line in `pipeline.train.make_executor`.
    Its rules: a job in another process gets a pipe as its standard input and `OF_EXECUTOR` in its environment, so that
    it ends when this process does (`models/finetuning/interface.py`; without the variable it does not listen); what a
    job prints reaches the terminal, or its `log.txt`; `stop` returns within `errors.STOPS_WITHIN` seconds; a job's
    seconds count from `start`.
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
        """Runs jobs in their order; with a deadline in the order of what they bring, as far as they can finish."""
        waiting, running, results = list(jobs), dict[int, _Running](), list[Result]()
        retried = dict[str, str]()  # what happened to the jobs that are tried again

        def end(slot: int, ended: str, status: int | None) -> None:
            one = running.pop(slot)
            self.durations.add(one.job, time.time() - one.started, ended)
            if ended != "crashed":
                results.append(Result(one.job, ended, status))

        def settle(slot: int, status: int) -> None:
            job, happened = running[slot].job, what_happened(status)
            crashed = status == OUT_OF_MEMORY or status < 0  # another try, with less memory, may do better
            if status in (0, STOPPED):
                end(slot, "stopped" if status else "finished", status)
            elif crashed and str(job) not in retried:
                retried[str(job)] = happened
                end(slot, "crashed", status)
                waiting.append(dataclasses.replace(job, resumes=True))
                say(f"note: {job} {happened}: once more, {SMALLER}")
            else:
                reason = next(filter(None, [folder.failure() for folder in job.outputs]), happened)
                if crashed:
                    reason = f"{retried[str(job)]}; tried again with less memory it {happened}"
                end(slot, "failed", status)
                for folder in job.outputs:
                    folder.fail(reason)
                if status not in (USER_ERROR, DIVERGED):  # it has printed these
                    say(f"error: {job} {reason}{f'. {ADVICE}' if crashed else ''}")

        def stop_all() -> None:
            self.stop([one.handle for one in running.values()])
            for slot, one in sorted(running.items()):
                status = self.status(one.handle)
                end(slot, "finished" if status == 0 else "stopped", status)

        for each in waiting:  # memory is looked at before any job takes some
            self.slots_for(each)
        try:
            while True:
                over = any(result.status in (USER_ERROR, STOPPED) for result in results)
                while waiting and not over:
                    job = waiting[0] if deadline is None else next_job(waiting, self.durations, deadline.left)
                    if job is None:
                        break
                    retry = str(job) in retried
                    share = Fraction(1, 1 if retry else self.slots_for(job))
                    if sum(one.share for one in running.values()) + share > 1:
                        break
                    waiting.remove(job)
                    slot = min(set(range(len(running) + 1)) - set(running))
                    if deadline is not None:
                        say(
                            f"{clock_time(deadline.passed)}  {self.slot_name(job, slot)}: {job} starts, at most "
                            f"{duration(self.durations.seconds(job))} expected"
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
                    stop_all()
        finally:
            stop_all()


def what_happened(status: int) -> str:
    """To a process that ended with this status, in words."""
    if status == -signal.SIGKILL:
        return "was killed (signal 9), probably out of memory"
    if status == OUT_OF_MEMORY:
        return "ran out of memory"
    return f"was ended by signal {-status}" if status < 0 else f"exited with status {status}, see above"


class LocalExecutor(Executor):
    """Jobs as processes on this machine: Keras keeps growing when one process fits several networks.

    Some at a time: loading, building and tracing use one core, and so do small images mostly.
    """

    def __init__(self, durations: Durations, devices: Sequence[Device] = (), asked: int | None = None) -> None:
        super().__init__(durations)
        self.devices, self.asked = devices, asked  # how many at a time (--jobs), whatever memory is free
        self._at_a_time: dict[str, int] = {}

    def slots_for(self, job: Job) -> int:
        """Fewer than the machine is divided into where free memory is short; each has its share of the cores."""
        if self.asked or not job.memory:
            return job.side_by_side
        if job.model not in self._at_a_time:
            fitting = environment.at_a_time(job.side_by_side, job.memory)
            self._at_a_time[job.model] = fitting
            if fitting < job.side_by_side:
                say(f"note: memory is short: {fitting} of {job.side_by_side} folds of {job.model} at a time")
        return self._at_a_time[job.model]

    def slot_name(self, job: Job, slot: int) -> str:
        device = device_of_slot(slot, job.side_by_side, self.devices)
        return f"{device.kind} {device.name}".strip() if device else "CPU"

    def start(self, job: Job, slot: int, retry: bool) -> subprocess.Popen:
        own = pinned(os.environ) | {LINE: str(slot), LABEL: str(job), OF_EXECUTOR: "1"}
        if job.side_by_side > 1:
            device = device_of_slot(slot, job.side_by_side, self.devices)
            own |= device.environment() if device else {}
        own |= SMALLER_ENVIRONMENT if retry else {}
        draw(f"{job}: starting", slot)
        with held_back():  # Ctrl-C is for this process, which ends the others
            return subprocess.Popen(job.command, env=own, cwd=REPOSITORY, stdin=subprocess.PIPE)

    def wait(self, handles: Sequence[subprocess.Popen], seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and all(handle.poll() is None for handle in handles):
            with contextlib.suppress(subprocess.TimeoutExpired):
                handles[0].wait(POLL_SECONDS if len(handles) > 1 else min(1.0, max(0.0, until - time.monotonic())))

    def status(self, handle: subprocess.Popen) -> int | None:
        return handle.poll()

    def stop(self, handles: Collection[subprocess.Popen]) -> None:
        """A process in the middle of a long step cannot listen, and is killed: nothing finished is lost by that."""
        for end in (subprocess.Popen.terminate, subprocess.Popen.kill):
            for process in handles:
                end(process)
            deadline = time.monotonic() + GRACE_SECONDS
            for process in handles:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))
