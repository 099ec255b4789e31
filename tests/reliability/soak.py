"""Many jobs one after another: does the process that starts them grow, or leave anything behind?

    python -m tests.reliability.soak --jobs 1000 --folds 100

The jobs' work is a stand-in command that writes one file; the folds are real, on a tiny rendered set, and their
results are deleted for the next ones. The executor of `run_all.sh` starts both. Prints the parent's memory and open
files over time; exit status 1 if they grew, or if a process or a temporary file is left.
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from common.run_folder import REPOSITORY
from pipeline.jobs import Job
from pipeline.local import LocalExecutor
from pipeline.schedule import Durations
from tests.reliability.pipeline import FOLDS, MODEL, Place, descendants

MAY_GROW = 2**20  # bytes, from a tenth of the way on
STAND_IN = """
import sys
sys.path.insert(0, {repository!r})
from pathlib import Path
from common.files import write_text
write_text(Path(__file__).parent / "output.txt", " ".join(sys.argv))
"""


class Measure(NamedTuple):
    """This process at one moment of a soak."""

    jobs: int
    resident: int  # bytes
    files: int  # open ones
    children: frozenset[int] = frozenset()  # process ids of all its descendants
    threads: int = 1


def measured(done: int) -> Measure:
    """This process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Measure(
        *(done, pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd"))),
        *(frozenset(descendants(os.getpid())), threading.active_count()),
    )


def soak(jobs: int, run: Callable[[int], None], every: int) -> list[Measure]:
    """Runs so many jobs; measures this process at the beginning, after every few, and at the end."""
    curve = [measured(0)]
    for number in range(1, jobs + 1):
        run(number)
        if number % every == 0 or number == jobs:
            curve.append(measured(number))
            now = curve[-1]
            print(f"{number:>6} jobs {now.resident / 2**20:>8.1f} MiB {now.files:>4} open files", flush=True)
    return curve


def faults(curve: list[Measure], folder: Path) -> list[str]:
    """What is not as it should be after a soak."""
    begin, end, settled = curve[0], curve[-1], curve[max(1, len(curve) // 10)]
    left = [str(path) for path in folder.rglob(".*") if ".part-" in path.name or path.name.endswith(".lock")]
    processes = sorted(end.children - begin.children)
    found = {
        f"memory grew by {end.resident - settled.resident:,} bytes": end.resident - settled.resident > MAY_GROW,
        f"open files grew by {end.files - begin.files}": end.files > begin.files,
        f"processes left: {processes}": bool(processes),
        f"threads left: {end.threads - begin.threads}": end.threads > begin.threads,
        f"temporary files left: {left}": bool(left),
    }
    return [words for words, wrong in found.items() if wrong]


class StandIn(Job):
    """A job with another command."""

    @property
    def words(self) -> list[str]:
        return [str(self.config), *map(str, self.folds)]


def stand_ins(folder: Path) -> Callable[[int], None]:
    """Runs a job whose work is to write a file."""
    script = folder / "stand_in.py"
    script.write_text(STAND_IN.format(repository=str(REPOSITORY)))
    return lambda number: execute(StandIn("stand-in", (number,), "", script, (), ()), folder)


def execute(job: Job, folder: Path) -> None:
    """Runs a job as `run_all.sh` does."""
    (result,) = LocalExecutor(Durations(folder / "durations.json", "soak")).run([job])
    assert result.ended == "finished", result


def real_folds(folder: Path) -> Callable[[int], None]:
    """Trains the folds of a tiny set in turn, again and again."""
    place = Place(folder)
    for _ in ("the data", "the jobs' configuration"):
        subprocess.run(place.command("--list-jobs"), cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)

    def run(number: int) -> None:
        output = place.run.fold(MODEL, number % FOLDS)
        shutil.rmtree(output.path, ignore_errors=True)
        with silenced():
            execute(Job(MODEL, (output.fold,), MODEL, place.run.job_file(MODEL), (), (output,)), folder)
        assert output.is_finished()

    return run


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Sends what child processes print to nowhere."""
    saved = os.dup(1)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        try:
            yield
        finally:
            os.dup2(saved, 1)
            os.close(saved)


def main() -> None:
    """Parses the command line and soaks."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.soak", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000, help="whose work is a stand-in command [1000]")
    parser.add_argument("--folds", type=int, default=100, help="real ones, on a tiny set [100]")
    arguments = parser.parse_args()
    wrong: list[str] = []
    for count, work in ((arguments.jobs, stand_ins), (arguments.folds, real_folds)):
        if count:
            with tempfile.TemporaryDirectory(prefix="soak_") as folder:
                curve = soak(count, work(Path(folder)), max(1, count // 20))
                wrong += faults(curve, Path(folder))
    print("\n".join(wrong) or "flat, and nothing left")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
