"""This machine's executor: its cores and GPUs, a process a job.

A process a job, since Keras keeps growing when one process fits several networks. Some at a time: loading, building and
tracing use one core, and so do small images mostly.
"""

import contextlib
import os
import subprocess
import time
from collections.abc import Collection, Sequence

from common import machine, terminal
from common.environment import LESS_MEMORY, OF_EXECUTOR, pinned
from common.errors import held_back
from common.run_folder import REPOSITORY
from pipeline.executor import Executor
from pipeline.jobs import Job
from pipeline.resources import Device, device_of_slot
from pipeline.schedule import Durations

POLL_SECONDS = 0.2
GRACE_SECONDS = 2.0  # for a process to end after SIGTERM
SMALLER_ENVIRONMENT = {LESS_MEMORY: "1", "MALLOC_ARENA_MAX": "2", "TF_GPU_ALLOCATOR": "cuda_malloc_async"}


class LocalExecutor(Executor):
    """Jobs as processes on this machine.

    Args:
        durations: what jobs took, which is kept.
        devices: accelerators; none for the CPU.
        asked: how many at a time, as a person asked (--jobs), whatever memory is free.
    """

    def __init__(self, durations: Durations, devices: Sequence[Device] = (), asked: int | None = None) -> None:
        super().__init__(durations)
        self.devices, self.asked = tuple(devices), asked
        self._at_a_time: dict[str, int] = {}

    def slots_for(self, job: Job) -> int:
        """Fewer than the machine is divided into where free memory is short; each has its share of the cores."""
        if self.asked or not job.memory:
            return job.side_by_side
        if job.model not in self._at_a_time:
            fitting = machine.at_a_time(job.side_by_side, job.memory)
            self._at_a_time[job.model] = fitting
            if fitting < job.side_by_side:
                terminal.say(f"note: memory is short: {fitting} of {job.side_by_side} folds of {job.model} at a time")
        return self._at_a_time[job.model]

    def slot_name(self, job: Job, slot: int) -> str:
        device = device_of_slot(slot, job.side_by_side, self.devices)
        return f"{device.kind} {device.name}".strip() if device else "CPU"

    def start(self, job: Job, slot: int, retry: bool) -> subprocess.Popen:
        own = pinned(os.environ) | {terminal.LINE: str(slot), terminal.LABEL: str(job), OF_EXECUTOR: "1"}
        if job.side_by_side > 1:
            device = device_of_slot(slot, job.side_by_side, self.devices)
            own |= device.environment() if device else {}
        own |= SMALLER_ENVIRONMENT if retry else {}
        terminal.draw(f"{job}: starting", slot)
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
