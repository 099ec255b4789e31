"""Folds in processes of their own, one after another or some at a time.

A process a fold: Keras keeps growing when it fits several networks. Some at a time: loading, building and tracing use
one core, and so do small images mostly; two such folds on two cores take less time side by side than in turn.
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from models.finetuning.devices import Device, find_devices
from preprocessing.errors import UserError

LABEL = "STATEFARM_LINE_LABEL"  # what a process puts before each line that it says, for who reads two at once
POLL_SECONDS = 0.2
GRACE_SECONDS = 1.0


def default_jobs(quick: bool, folds: int) -> int:
    """How many folds at a time: one on each GPU; without any, several only where images are small."""
    devices = len(find_devices())
    return min(folds, devices or (os.cpu_count() or 1 if quick else 1))


def run_folds(script: Path, words: Sequence[str], folds: Sequence[int], jobs: int) -> None:
    """Runs an architecture's script for each fold; when one fails, those that run are finished and no other begins.

    Args:
        words: its command line without `--fold`.
        jobs: how many at a time; they share the cores evenly, whatever is left to do, and each has a GPU of its own
            as far as there are.

    Raises:
        UserError: a process was ended by a signal.
        SystemExit: a process failed, having said why.
    """
    waiting, running, failed = list(folds), dict[int, subprocess.Popen](), dict[int, int]()
    places, place_of = list(range(jobs)), dict[int, int]()
    devices = find_devices() if jobs > 1 else []
    try:
        while running or (waiting and not failed):
            while waiting and len(running) < jobs and not failed:
                fold = waiting.pop(0)
                command = [sys.executable, str(script), *words, "--fold", str(fold)]
                place = place_of[fold] = places.pop(0)
                device = devices[place % len(devices)] if devices else None
                running[fold] = subprocess.Popen(command, env=environment(f"fold {fold}", jobs, place, device))
            if jobs == 1:
                next(iter(running.values())).wait()
            for fold, process in list(running.items()):
                if process.poll() is not None:
                    del running[fold]
                    places.append(place_of.pop(fold))
                    if process.returncode:
                        failed[fold] = process.returncode
            if running and jobs > 1:
                time.sleep(POLL_SECONDS)
    finally:
        stop(running.values())
    for fold, status in failed.items():
        if status < 0:
            raise UserError(_ended_by_signal(script.stem, fold, -status))
        sys.exit(status)


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
    own = dict(os.environ) | (device.environment() if device else {})
    if jobs == 1:
        return own
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    shared = {"TF_NUM_INTRAOP_THREADS": threads, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
    return own | shared | {"TQDM_POSITION": str(place), LABEL: f"{name} | "}


def _ended_by_signal(name: str, fold: int, signal: int) -> str:
    memory = ", as systems do when memory runs out: try a smaller --batch-size or --image-size, or --jobs 1"
    return (
        f"fold {fold} of {name} was ended by signal {signal}{memory if signal == 9 else ''}. "
        "The same command goes on after the last finished epoch."
    )
