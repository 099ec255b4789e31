"""Runs the pipeline on a disk that is full again and again, then on one that is read-only at the start of each stage.

    python -m tests.reliability.full_disk --points 20

The disk is a tmpfs of a few pages (mounting needs root). Where a stage fails, it must say so in one line and leave what
was finished as it was; then the disk grows by a few pages and the same stage is started again, until all are through.
The results must be the bytes of a run that had room. The stages' own commands are run, since `run_all.sh` would
refuse such a disk before it starts anything.
"""

import argparse
import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from common.run_folder import REPOSITORY
from tests.reliability.pipeline import FOLDS, MODEL, RECIPE, Place, differing

PAGE = 4096  # bytes, of which a tmpfs has whole ones
ROOMY = 2**28  # bytes


class Failure(NamedTuple):
    """A stage that failed, and what was wrong with the way it did."""

    stage: str
    message: str
    faults: list[str]


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """A file system of `size` bytes at `folder`.

    Raises:
        subprocess.CalledProcessError: mounting is not allowed here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mount(folder, f"size={size}", "-t", "tmpfs")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def mount(folder: Path, options: str, *words: str) -> None:
    subprocess.run(["mount", *words, "-o", options, "tmpfs", str(folder)], check=True, capture_output=True)


def stages(place: Place) -> dict[str, list[str]]:
    """The commands of the stages, by name."""
    cached = [*place.where, "--cache", str(place.root / "cache")]
    train = [f"models/{MODEL}.py", *cached, *RECIPE, "--fold"]
    return {
        "folds": ["-m", "preprocessing.folds", *cached, "--folds", str(FOLDS)],
        **{f"fold {fold}": [*train, str(fold)] for fold in range(FOLDS)},
        "blend": ["-m", "ensemble.blend", *place.where, "--submissions", str(place.submissions)],
    }


def attempt(stage: str, command: Sequence[str], place: Place) -> Failure | None:
    """Runs a stage; None where it succeeded."""
    before = finished_results(place)
    done = subprocess.run([sys.executable, *command], cwd=REPOSITORY, capture_output=True, text=True, timeout=600)
    if not done.returncode:
        return None
    lines = [line for line in done.stderr.strip().splitlines() if not line.startswith("note: ")]
    found = {
        f"exit status {done.returncode}": done.returncode != 2,
        f"{len(lines)} lines: {done.stderr[-1500:]!r}": len(lines) != 1,
        "a traceback": "Traceback" in done.stderr,
        f"did not say what to do: {lines[-1:]}": not (lines and lines[-1].startswith("error: cannot write ")),
        "something finished was lost": before.items() > finished_results(place).items(),
        f"left {place.temporaries()}": bool(place.temporaries()),
    }
    return Failure(stage, lines[-1] if lines else "", [words for words, wrong in found.items() if wrong])


def finished_results(place: Place) -> dict[str, bytes]:
    """The results of the stages that are finished."""
    done = {str(folder.path.relative_to(place.root)) for folder in place.run.finished()}
    return {name: content for name, content in place.results().items() if str(Path(name).parent) in done}


def run(root: Path, points: int) -> list[Failure]:
    """Everything; returns the failures that were not as they should be, and one for results that differ."""
    data = Place(root).data
    subprocess.run(Place(root).render(), cwd=REPOSITORY, check=True, capture_output=True)
    roomy, tight = root / "roomy", root / "tight"
    growth = dict[str, int]()
    with small_disk(roomy, ROOMY):
        place = Place(roomy)
        (roomy / "data").symlink_to(data)
        for stage, command in stages(place).items():
            before = shutil.disk_usage(roomy).used
            failure = attempt(stage, command, place)
            assert failure is None, failure
            growth[stage] = shutil.disk_usage(roomy).used - before
        expected = place.results()
    print(f"bytes that each stage leaves: {growth}", flush=True)
    failures: list[Failure] = []
    with small_disk(tight, PAGE):
        place = Place(tight)
        (tight / "data").symlink_to(data)
        for stage, command in stages(place).items():
            size = shutil.disk_usage(tight).used + PAGE
            mount(tight, f"remount,size={size}")
            mount(tight, "remount,ro")
            note(attempt(stage, command, place), "read-only", failures)
            mount(tight, "remount,rw")
            while note(attempt(stage, command, place), f"{size:,} bytes", failures):
                size += max(1, growth[stage] // max(1, points // len(growth)) // PAGE) * PAGE
                mount(tight, f"remount,size={size}")
        differ = differing(expected, place.results())
    counts = Counter(failure.stage for failure in failures)
    assert set(counts) == set(growth), "each stage must have met a disk without room"
    print(
        f"{len(failures)} times no room or read-only: {dict(counts)}; differing results: {', '.join(differ) or 'none'}"
    )
    wrong = [failure for failure in failures if failure.faults]
    return wrong + ([Failure("all", "differing results", differ)] if differ else [])


def note(failure: Failure | None, disk: str, failures: list[Failure]) -> bool:
    """Prints and keeps a failure; whether there was one."""
    if failure is not None:
        failures.append(failure)
        print(f"  {disk}: {failure.stage}: {failure.message[:200]}", flush=True)
        print("".join(f"    WRONG: {fault}\n" for fault in failure.faults), end="", flush=True)
    return failure is not None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.full_disk", description=__doc__)
    parser.add_argument("--points", type=int, default=20, help="how many steps the disk grows in [20]")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="full_disk_") as folder:
        sys.exit(1 if run(Path(folder), arguments.points) else 0)


if __name__ == "__main__":
    main()
