"""Folds in processes of their own, one after another or some at a time.

A process a fold: Keras keeps growing when it fits several networks. Some at a time: loading, building and tracing use
one core, and so do small images mostly; five folds on two cores take two thirds of the time side by side.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from common import machine
from common.environment import LESS_MEMORY, pinned, with_threads
from common.errors import DIVERGED, OUT_OF_MEMORY, SOME_FAILED, STOPPED, USER_ERROR
from models.finetuning.devices import Device, device_at, find_devices
from models.finetuning.needs import at_a_time

LABEL = "STATEFARM_LINE_LABEL"  # what a process puts before each line that it says, for who reads two at once
POLL_SECONDS = 0.2
GRACE_SECONDS = 1.0
ENDING = (STOPPED, USER_ERROR)

SHARE_OF_MEMORY = 0.7  # of the machine's, that folds side by side may take by default
SMALLER = "alone, with one thread that reads images, fewer memory arenas, and predictions in quarter batches"
SMALLER_ENVIRONMENT = {LESS_MEMORY: "1", "MALLOC_ARENA_MAX": "2", "TF_GPU_ALLOCATOR": "cuda_malloc_async"}
_ADVICE = (
    "A smaller --batch-size or --image-size takes less memory (under another --run or --model-name: they change the "
    "result), and so does --jobs 1. The same command tries it again, after the last finished epoch."
)


def default_jobs(quick: bool, folds: int, memory: int) -> int:
    """How many folds at a time: one on each GPU; without any, one on each core where images are small, else two.

    As how many they divide the cores decides how sums are rounded, so this depends on the machine's memory, never on
    what of it is free just now.

    Args:
        memory: bytes of one fold's process.
    """
    cores = machine.cores()
    fitting = max(1, int(SHARE_OF_MEMORY * machine.total_memory()) // memory)
    return min(folds, len(find_devices()) or min(fitting, cores if quick else min(cores, 2)))


def side_by_side(asked: int | None, quick: bool, folds: int, memory: int) -> tuple[int, int]:
    """As how many the folds divide the cores, and how many run at a time: fewer where free memory is short.

    Args:
        asked: by a person, which is taken as it is; None is the default.
        memory: bytes of one fold's process.
    """
    jobs = asked or default_jobs(quick, folds, memory)
    return jobs, asked or at_a_time(jobs, memory)


def run_folds(
    script: Path,
    words: Sequence[str],
    folds: Sequence[int | str],
    jobs: int,
    leave_out: Callable[[int | str, str], None] = lambda fold, what: None,
    limit: int | None = None,
    why: Callable[[int | str], str] = lambda fold: "",
) -> None:
    """Runs an architecture's script for each fold.

    A fold that runs out of memory or is killed by a signal is retried with less memory. One that fails in another way
    would fail again: it is left out, and the others go on. After a user's mistake no other fold starts.

    Args:
        words: its command line without `--fold`.
        jobs: how many at a time; they share the cores evenly, whatever is left to do, and each has a GPU of its own
            as far as there are.
        limit: at most so many of them where memory is short, with their share of the cores as if there were all.
        leave_out: is called with each failed fold that left no reason, and what happened.
        why: the reason that a failed fold left in its folder; empty without one.

    Raises:
        SystemExit: status `SOME_FAILED` where folds were left out, after all the others; 130 where one was stopped, 2
            where one met a mistake.
    """
    if limit and limit < min(jobs, len(folds)):
        print(memory_is_short(limit, jobs), file=sys.stderr)
    ended = _run_all(script, words, folds, min(jobs, limit or jobs), jobs)
    failed = {fold: status for fold, status in ended.items() if status}
    for status in ENDING:
        if status in failed.values():  # it has said why
            sys.exit(status)
    lost: list[int | str] = []
    for fold in sorted(failed, key=str):
        statuses = [failed[fold]]
        if is_retried(statuses[0]):
            print(
                f"note: fold {fold} of {script.stem} {what_happened(statuses[0])}: once more, {SMALLER}",
                file=sys.stderr,
            )
            again = _run_all(script, [*words, "--workers", "1"], [fold], 1, jobs, SMALLER_ENVIRONMENT)[fold]
            if again in ENDING:
                sys.exit(again)
            if not again:
                continue
            statuses.append(again)
        lost.append(fold)
        reason = why(fold)
        what = failure(statuses, reason)
        if not reason:
            leave_out(fold, what)
        advice = f". {_ADVICE}" if lacks_memory(statuses) else ""
        print(f"error: fold {fold} of {script.stem} {what}{advice}", file=sys.stderr)
    if lost:
        left = f"{len(folds) - len(lost)} of {len(folds)} folds are finished"
        print(f"error: {script.stem} lacks fold {', '.join(sorted(map(str, lost)))}; {left}", file=sys.stderr)
        sys.exit(SOME_FAILED)


def _run_all(
    script: Path,
    words: Sequence[str],
    folds: Sequence[int | str],
    jobs: int,
    sharing: int,
    extra: Mapping[str, str] = MappingProxyType({}),
) -> dict[int | str, int]:
    """The exit status of each fold's process; none begins after one was stopped or met a mistake.

    Args:
        jobs: how many at a time.
        sharing: as how many they divide the cores, which decides how sums are rounded.
        extra: variables of their environment.
    """
    waiting, running, ended = list(folds), dict[int | str, subprocess.Popen](), dict[int | str, int]()
    places, place_of = list(range(jobs)), dict[int | str, int]()
    devices = find_devices() if sharing > 1 else []
    try:
        while running or (waiting and not set(ENDING) & set(ended.values())):
            while waiting and len(running) < jobs and not set(ENDING) & set(ended.values()):
                fold = waiting.pop(0)
                command = [sys.executable, str(script), *words, "--fold", str(fold)]
                place = place_of[fold] = places.pop(0)
                own = environment(f"fold {fold}", sharing, place, device_at(place, jobs, devices)) | dict(extra)
                running[fold] = subprocess.Popen(command, env=own)
            if jobs == 1:
                next(iter(running.values())).wait()
            for fold, process in list(running.items()):
                if process.poll() is not None:
                    del running[fold]
                    places.append(place_of.pop(fold))
                    ended[fold] = process.returncode
            if running and jobs > 1:
                time.sleep(POLL_SECONDS)
    finally:
        stop(running.values())
    return ended


def stop(processes: Collection[subprocess.Popen]) -> None:
    """Ends processes; those that the terminal has told of Ctrl-C too are given the time to end by themselves.

    One that is in the midst of a long step cannot listen, and is killed: nothing finished is lost by that.
    """
    for end in (lambda process: None, subprocess.Popen.terminate, subprocess.Popen.kill):
        for process in processes:
            end(process)
        deadline = time.monotonic() + GRACE_SECONDS
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))


def environment(name: str, jobs: int, place: int, device: Device | None = None) -> dict[str, str]:
    """The environment of one of `jobs` processes side by side.

    Args:
        name: what it works on, before each line that it says.
        place: of its progress bar, from 0.
        device: the only one that it may see; None for all there are.
    """
    own = pinned(os.environ) | (device.environment() if device else {})
    if jobs == 1:
        return own
    threads = max(1, machine.cores() // jobs)
    return own | with_threads(threads) | {"TQDM_POSITION": str(place), LABEL: f"{name} | "}


def memory_is_short(limit: int, jobs: int) -> str:
    """The line that says why fewer run at a time than else would."""
    return f"note: memory is short: {limit} of {jobs} folds at a time"


def is_retried(status: int) -> bool:
    """Whether a process that ended with this status may do better with less memory. A bug or a setting would not."""
    return status < 0 or status == OUT_OF_MEMORY


def lacks_memory(statuses: Sequence[int]) -> bool:
    """Whether a fold's exit statuses are evidence that memory is short."""
    return bool({-signal.SIGKILL, OUT_OF_MEMORY} & set(statuses))


def failure(statuses: Sequence[int], reason: str = "") -> str:
    """What happened to a failed fold, in words.

    Args:
        statuses: of its tries, one or two.
        reason: that the last one left in the fold's folder.
    """
    last = "failed, see above" if statuses[-1] == DIVERGED else reason or what_happened(statuses[-1])
    return last if len(statuses) == 1 else f"{what_happened(statuses[0])}; tried again with less memory it {last}"


def what_happened(status: int) -> str:
    """To a process that ended with this status, in words."""
    if status == -signal.SIGKILL:
        return "was killed (signal 9), probably out of memory"
    if status == OUT_OF_MEMORY:
        return "ran out of memory"
    if status < 0:
        return f"was ended by signal {-status} ({signal.strsignal(-status)})"
    return f"exited with status {status}, see above"
