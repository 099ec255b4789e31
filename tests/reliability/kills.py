"""Kills the pipeline at random moments, starts it again until it ends, and compares what it made.

    python -m tests.reliability.kills --kills 200 --seed 1

The whole process group gets SIGKILL. A kill aims at a stage and at a moment in it: some random time after its start, or
as it writes its n-th file, while the temporary file is there and not yet renamed, or some time after that. What a
kill really hit is told by what then ran and by what lay there, and counted. `--gently N` adds N interruptions by Ctrl-C
and SIGTERM, which have to end within five seconds and say how to go on. Exit status 1 if one result differs.
"""

import argparse
import dataclasses
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.reliability.pipeline import STAGES, Pipeline, Place

A_TRIAL = 10  # interruptions of one pipeline from its start to its submission
# Which stages they aim at, trial by trial.
AIMS = (
    *("fold 0", "demo", "blend", "folds", "fold 1", "fold 0", "check", "blend", "fold 0", "ready"),
    *("fold 1", "plan", "demo", "fold 0", "blend", "fold 1", "folds", "fold 0", "fold 1", "models"),
)
LOOK_EVERY, GLANCE_EVERY = 0.001, 0.02  # seconds, where a file's writing is waited for and elsewhere
STOPS_WITHIN, GIVEN_UP_AFTER = 5.0, 30.0  # seconds after Ctrl-C or SIGTERM
SAID = "The same command goes on from here"


@dataclasses.dataclass(frozen=True)
class Moment:
    """When to interrupt: `delay` seconds after a stage began, or after its n-th temporary file appeared."""

    stage: str
    write: int
    delay: float


@dataclasses.dataclass(frozen=True)
class Hit:
    """What an interruption found.

    Attributes:
        number: the signal.
        stage: what ran, and for a fold how far it was.
        half_written: names of the files that were written and not yet renamed.
        seconds: until every process was gone.
        faults: what was wrong with the way it ended.
    """

    number: signal.Signals
    stage: str
    half_written: tuple[str, ...]
    seconds: float
    faults: tuple[str, ...] = ()


@dataclasses.dataclass
class Watched:
    """What an uninterrupted run showed: each stage's seconds and how many files it writes."""

    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    writes: dict[str, int] = dataclasses.field(default_factory=dict)


def watch(pipeline: Pipeline, place: Place, moment: Moment | None) -> Watched:
    """Follows a pipeline until its moment has come, or its end; returns what it saw."""
    seen, old, current, due = Watched(), place.temporaries(), "", float("inf")
    rank = STAGES.index(moment.stage) if moment else len(STAGES)
    while pipeline.running() and time.monotonic() < due:
        now, stage = time.monotonic(), pipeline.stage()
        if stage and stage != current:
            current, begun, written = stage, now, 0
        if current:
            new = place.temporaries() - old
            old, written = old | new, written + len(new)
            seen.seconds[current], seen.writes[current] = now - begun, written
            if moment and due == float("inf") and STAGES.index(current) >= rank:
                passed = STAGES.index(current) > rank
                if passed or written >= moment.write:
                    due = now if passed else now + moment.delay
        if now < due:
            close = moment is None or (moment.write and current == moment.stage)
            time.sleep(min(LOOK_EVERY if close else GLANCE_EVERY, due - now))
    return seen


def interrupt(place: Place, moment: Moment, number: signal.Signals) -> Hit | None:
    """Starts the pipeline and interrupts it; None where it ended before."""
    if moment.stage != "demo":
        render(place)
    before, log = place.temporaries(), place.root / "log.txt"
    offset = log.stat().st_size if log.exists() else 0
    pipeline = Pipeline(place.command(), log)
    with pipeline.ended():
        watch(pipeline, place, moment)
    if not pipeline.running():
        return None
    stage = pipeline.stage() or "between stages"
    begun = time.monotonic()
    pipeline.stop(number)
    while (pipeline.running() or pipeline.left_behind()) and time.monotonic() < begun + GIVEN_UP_AFTER:
        time.sleep(LOOK_EVERY)
    seconds = time.monotonic() - begun
    if pipeline.running():
        pipeline.stop(signal.SIGKILL)
    status = pipeline.wait()
    half_written = tuple(sorted(Path(name).name for name in place.temporaries() - before))
    faults = () if number == signal.SIGKILL else _faults(pipeline, status, seconds, offset, half_written)
    return Hit(number, _finer(place, stage), half_written, seconds, faults)


def _faults(
    pipeline: Pipeline, status: int, seconds: float, offset: int, half_written: Sequence[str]
) -> tuple[str, ...]:
    """What is wrong with the end of a pipeline that was asked to stop."""
    said = pipeline.log.read_bytes()[offset:].decode(errors="replace")
    found = {
        f"took {seconds:.1f} s": seconds > STOPS_WITHIN,
        f"exit status {status}": status != 130,
        f"did not say how to go on: {said[-300:]!r}": SAID not in said,
        "a traceback": "Traceback" in said,
        f"left {', '.join(half_written)}": bool(half_written),
    }
    return tuple(words for words, wrong in found.items() if wrong)


def _finer(place: Place, stage: str) -> str:
    """A fold's stage with how far it was, by the files that lie there."""
    if not stage.startswith("fold "):
        return stage
    folder = place.fold(int(stage.removeprefix("fold ")))
    for name, part in (
        ("finished.json", "finished"),
        ("out_of_fold.csv", "predictions"),
        ("checkpoint/state.npz", "epochs"),
    ):
        if (folder / name).exists():
            return f"{stage}, {part}"
    return f"{stage}, before its first checkpoint"


def moments(aims: Sequence[str], watched: Watched, generator: random.Random) -> list[Moment]:
    """Moments in these stages, in the order of the stages."""
    drawn = []
    for aim in aims:
        seconds, writes = watched.seconds.get(aim, 1.0), watched.writes.get(aim, 0)
        way = generator.random()
        if not writes or way < 0.25:  # any time
            drawn.append(Moment(aim, 0, generator.uniform(0, seconds)))
        else:  # while a file is written, or shortly after
            write = generator.randint(1, writes)
            drawn.append(Moment(aim, write, 0.0 if way < 0.7 else generator.uniform(0, 0.5)))
    return sorted(drawn, key=lambda moment: (STAGES.index(moment.stage), moment.write, moment.delay))


def render(place: Place) -> Watched:
    """Renders the data, where there is none."""
    return Watched() if place.data.is_dir() else finished(place)


def finished(place: Place) -> Watched:
    """Runs the command that comes next from start to end.

    Raises:
        RuntimeError: it failed.
    """
    pipeline = Pipeline(place.command(), place.root / "log.txt")
    with pipeline.ended():
        watched = watch(pipeline, place, None)
    if pipeline.wait():
        raise RuntimeError(f"the pipeline failed: {pipeline.log.read_text()[-2000:]}")
    return watched


def uninterrupted(place: Place) -> Watched:
    """A run from where it is to its end, with what was seen of it."""
    place.root.mkdir(parents=True, exist_ok=True)
    demo, rest = render(place), finished(place)
    return Watched(demo.seconds | rest.seconds, demo.writes | rest.writes)


def trial(place: Place, aims: Sequence[tuple[Moment, signal.Signals]], tell: Callable[[Hit], None]) -> list[str]:
    """One pipeline through all its interruptions to its end; returns what was left behind."""
    place.root.mkdir(parents=True)
    for moment, number in aims:
        hit = interrupt(place, moment, number)
        if hit is not None:
            tell(hit)
    uninterrupted(place)
    return sorted(place.temporaries())


def differing(expected: dict[str, bytes], found: dict[str, bytes]) -> list[str]:
    """Names of results that are not the same bytes, or not there."""
    return sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))


def histogram(hits: Sequence[Hit]) -> str:
    """Kills by what they hit, for people."""
    stages = Counter(hit.stage for hit in hits)
    order = {stage: number for number, stage in enumerate(STAGES)}
    lines = ["kills  stage"]
    for stage in sorted(stages, key=lambda stage: (order.get(stage.partition(",")[0], -1), stage)):
        lines.append(f"{stages[stage]:>5}  {stage} {'#' * stages[stage]}")
    half = [hit for hit in hits if hit.half_written]
    kinds = Counter(_target(name) for hit in half for name in hit.half_written)
    lines.append(f"{len(half):>5}  of them between a write and its rename:")
    lines += [f"{number:>9}  {name}" for name, number in sorted(kinds.items())]
    return "\n".join(lines)


def _target(temporary: str) -> str:
    """What a temporary file was to become: 'folds.csv' of '.folds.csv.part-ab12cd34.csv'."""
    name = temporary.removeprefix(".").partition(".part-")[0]
    return "checked/KEY.json" if re.fullmatch(r"[0-9a-f]{16}\.json", name) else name


def main() -> None:
    """Parses the command line, kills and compares."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="how many SIGKILLs [200]")
    parser.add_argument("--gently", type=int, default=0, help="how many interruptions by Ctrl-C and SIGTERM beside [0]")
    parser.add_argument("--seed", type=int, default=1, help="of the moments [1]")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no trial after so long [no limit]")
    parser.add_argument("--jobs", type=int, default=1, help="folds at a time [1]")
    parser.add_argument("--place", type=Path, help="the folder to work in; stays [a temporary one]")
    arguments = parser.parse_args()
    root = arguments.place or Path(tempfile.mkdtemp(prefix="kills_"))
    wrong = run(root, arguments.kills, arguments.gently, arguments.seed, 60 * arguments.minutes, arguments.jobs)
    if arguments.place is None and not wrong:
        shutil.rmtree(root)
    sys.exit(1 if wrong else 0)


def run(root: Path, kills: int, gently: int, seed: int, seconds: float = float("inf"), jobs: int = 1) -> int:
    """All trials; prints what they found, and returns how many went wrong."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what is ignored here, could not be caught there
    begun, generator = time.monotonic(), random.Random(seed)
    reference = Place(root / "reference", jobs)
    watched = uninterrupted(reference)
    expected = reference.results()
    print(f"uninterrupted: {time.monotonic() - begun:.0f} s, {len(expected)} results", flush=True)
    hits: list[Hit] = []
    gentle: list[Hit] = []
    wrong = number = aimed = 0
    while (kills > len(hits) or gently > len(gentle)) and time.monotonic() - begun < seconds:
        number += 1
        signals = [signal.SIGKILL] * min(A_TRIAL, kills - len(hits))
        polite = min(A_TRIAL - len(signals), gently - len(gentle))
        signals += [generator.choice([signal.SIGINT, signal.SIGTERM]) for _ in range(polite)]
        stages = [AIMS[(aimed + position) % len(AIMS)] for position in range(len(signals))]
        aimed += len(stages)
        generator.shuffle(signals)
        aims = list(zip(moments(stages, watched, generator), signals, strict=True))
        found: list[Hit] = []
        place = Place(root / f"trial_{number}", jobs)
        left = trial(place, aims, found.append)
        hits += [hit for hit in found if hit.number == signal.SIGKILL]
        gentle += [hit for hit in found if hit.number != signal.SIGKILL]
        differ = differing(expected, place.results())
        faults = [f"{hit.number.name}, {hit.stage}: {fault}" for hit in found for fault in hit.faults]
        wrong += bool(differ or left or faults)
        words = ", ".join(differ) or "none"
        print(f"trial {number}: {len(found)} interruptions, differing results: {words}; left: {left or 'nothing'}")
        print("".join(f"  {fault}\n" for fault in faults), end="", flush=True)
        if not (differ or left or faults):
            shutil.rmtree(place.root)
    print(histogram(hits))
    if gentle:
        print(f"{len(gentle)} interruptions by Ctrl-C and SIGTERM: {max(hit.seconds for hit in gentle):.1f} s at most")
    print(f"{len(hits)} kills in {number} runs, {wrong} of them wrong, {(time.monotonic() - begun) / 60:.0f} min")
    return wrong


if __name__ == "__main__":
    main()
