"""Kills the pipeline at random moments, starts it again until it ends, and compares what it made.

    python -m tests.reliability.kills --kills 200 --seed 1

The whole process group gets SIGKILL: a random time after its start, or as it writes its n-th file, while the temporary
file is there and not yet renamed, or some time after that. What ran and what lay there is counted. `--gently N` adds N
interruptions by Ctrl-C and SIGTERM, which have to end within five seconds and say how to go on. Exit status 1 if one
result differs.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from common import STOPPED
from tests.reliability.pipeline import FOLDS, MODEL, Pipeline, Place, command_line, differing

LOOK_EVERY = 0.002  # seconds
STOPS_WITHIN, GIVEN_UP_AFTER = 5.0, 30.0  # seconds after Ctrl-C or SIGTERM


class Moment(NamedTuple):
    """When to interrupt: `delay` seconds after the start, or after the n-th temporary file appeared."""

    write: int
    delay: float


class Hit(NamedTuple):
    """What an interruption found: what ran, files not yet renamed, seconds until the end, what was wrong."""

    number: signal.Signals
    stage: str
    half_written: list[str]
    seconds: float
    faults: list[str]


def watch(pipeline: Pipeline, place: Place, moment: Moment | None) -> tuple[float, int]:
    """Follows a pipeline until its moment has come, or its end; returns the seconds, and how many files it wrote."""
    begun, old, written = time.monotonic(), place.temporaries(), 0
    due = float("inf") if moment is None or moment.write else begun + moment.delay
    while pipeline.running() and time.monotonic() < due:
        new = set[str]() if moment and not moment.write else place.temporaries() - old
        old, written = old | new, written + len(new)
        if moment and moment.write and written >= moment.write and due == float("inf"):
            due = time.monotonic() + moment.delay
        time.sleep(max(0.0, min(LOOK_EVERY, due - time.monotonic())))
    return time.monotonic() - begun, written


def interrupt(place: Place, moment: Moment, number: signal.Signals) -> Hit | None:
    """Starts the pipeline and interrupts it; None where it ended before."""
    before, log = place.temporaries(), place.root / "log.txt"
    offset = log.stat().st_size if log.exists() else 0
    pipeline = Pipeline(place.command(), log)
    watch(pipeline, place, moment)
    if not pipeline.running():
        return None
    stage = stage_of(pipeline, place)
    ours = any("python" in word for word in command_line(pipeline.process.pid)[:1])  # not the shell that starts it
    begun = time.monotonic()
    pipeline.stop(number)
    while (pipeline.running() or pipeline.left_behind()) and time.monotonic() < begun + GIVEN_UP_AFTER:
        time.sleep(LOOK_EVERY)
    seconds = time.monotonic() - begun
    if left := pipeline.left_behind():
        pipeline.stop(signal.SIGKILL)
    status = pipeline.process.wait()
    said = log.read_bytes()[offset:].decode(errors="replace")
    ours = ours and (said != "" or status != -number)  # nor an interpreter that has not come to any code
    half_written = sorted(Path(name).name for name in place.temporaries() - before)
    found = {"a traceback": "Traceback" in said, f"processes left: {left}": bool(left)}
    if number != signal.SIGKILL:
        found |= {
            f"took {seconds:.1f} s": seconds > STOPS_WITHIN,
            f"exit status {status}": status != 130 and (ours or status != -number),
            f"did not say how to go on: {said[-300:]!r}": ours and STOPPED.strip() not in said,
            f"left {', '.join(half_written)}": bool(half_written),
        }
    return Hit(number, stage, half_written, seconds, [words for words, wrong in found.items() if wrong])


def stage_of(pipeline: Pipeline, place: Place) -> str:
    """What a pipeline does; of a fold how far it is, by the files that lie there."""
    if not place.data.is_dir():
        return "demo"
    fold = pipeline.fold()
    if not fold:
        return "blend" if len(place.run.finished()) == FOLDS else "before and between the folds"
    parts = {"finished.json": "finished", "out_of_fold.csv": "predictions", "checkpoint/state.npz": "epochs"}
    folder = place.run.fold(MODEL, int(fold))
    part = next((part for name, part in parts.items() if folder.exists(name)), "before its first checkpoint")
    return f"fold, {part}"


def draw_moment(seconds: float, writes: int, draw: random.Random) -> Moment:
    """A moment in a command that takes so long and writes so many files, or in what is left of it."""
    way = draw.random()
    if not writes or way < 0.3:
        return Moment(0, draw.uniform(0, 1.5 if way < 0.1 else seconds))
    return Moment(draw.randint(1, max(1, writes // 2)), 0.0 if way < 0.75 else draw.uniform(0, 0.5))


def run_next(place: Place) -> tuple[float, int]:
    """Runs the command that comes next to its end; returns what `watch` saw.

    Raises:
        RuntimeError: it failed.
    """
    place.root.mkdir(parents=True, exist_ok=True)
    pipeline = Pipeline(place.command(), place.root / "log.txt")
    seen = watch(pipeline, place, None)
    if pipeline.process.wait():
        raise RuntimeError(f"the pipeline failed: {pipeline.log.read_text()[-2000:]}")
    return seen


def trial(
    place: Place, seen: Sequence[tuple[float, int]], signals: Sequence[signal.Signals], draw: random.Random
) -> list[Hit]:
    """One pipeline through interruptions to its end; fewer than asked for where it ended before."""
    place.root.mkdir(parents=True)
    hits: list[Hit] = []
    for number in signals:
        rendering = not place.data.is_dir()
        hit = interrupt(place, draw_moment(*seen[0 if rendering else 1], draw), number)
        if hit is not None:
            hits.append(hit)
        if rendering:
            run_next(place)
        elif hit is None:
            break
    run_next(place)
    return hits


def run(root: Path, kills: int, gently: int, seed: int) -> int:
    """All trials; prints what they found, and returns how many went wrong."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what is ignored here, could not be caught there
    draw, reference = random.Random(seed), Place(root / "reference")
    seen = run_next(reference), run_next(reference)
    expected = reference.results()
    left = [signal.SIGKILL] * kills + [draw.choice([signal.SIGINT, signal.SIGTERM]) for _ in range(gently)]
    draw.shuffle(left)
    hits: list[Hit] = []
    wrong = number = 0
    while left:
        number += 1
        place = Place(root / f"trial_{number}")
        found = trial(place, seen, left, draw)
        for hit in found:
            left.remove(hit.number)
        hits += found
        faults = [f"{hit.number.name}, {hit.stage}: {fault}" for hit in found for fault in hit.faults]
        faults += [f"{name} differs" for name in differing(expected, place.results())]
        faults += [f"{name} was left" for name in sorted(place.temporaries())]
        wrong += bool(faults)
        print("\n  ".join([f"trial {number}: {len(found)} interruptions, {len(faults)} faults", *faults]), flush=True)
        if not faults:
            shutil.rmtree(place.root)
    killed = [hit for hit in hits if hit.number == signal.SIGKILL]
    for stage, count in Counter(hit.stage for hit in killed).items():
        print(f"{count:>5}  {stage}")
    print(f"{sum(bool(hit.half_written) for hit in killed):>5}  of them between a write and its rename")
    if gentle := [hit.seconds for hit in hits if hit.number != signal.SIGKILL]:
        print(f"{len(gentle)} interruptions by Ctrl-C and SIGTERM: {max(gentle):.1f} s at most")
    print(f"{len(killed)} kills in {number} runs, {wrong} of them wrong")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="how many SIGKILLs [200]")
    parser.add_argument("--gently", type=int, default=0, help="how many interruptions by Ctrl-C and SIGTERM beside [0]")
    parser.add_argument("--seed", type=int, default=1, help="of the moments [1]")
    arguments = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="kills_"))  # stays where something was wrong
    wrong = run(root, arguments.kills, arguments.gently, arguments.seed)
    if not wrong:
        shutil.rmtree(root)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
