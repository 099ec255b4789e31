"""Trains what there is time for: pieces side by side, one on each device, none begun that cannot finish in time.

    python -m tools.schedule --models "vgg16 resnet50" --time-budget 8h30m -- [options of every architecture's script]

The clock was started with run_all.sh, or is started now. A piece that is still running when the time is up is stopped;
the next start goes on with it after its last finished epoch. What pieces took is kept in runs/NAME/clock.json.
"""

import contextlib
import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import machine
from common.errors import DIVERGED, STOPPED, USER_ERROR, UserError, run_command
from common.files import read_json, write_json
from common.finished import why_it_failed
from common.run_folder import REPOSITORY, fold_folder
from common.settings import CommandLine, names_in
from models.finetuning import architecture as zoo
from models.finetuning import command, needs, runtime
from models.finetuning.devices import Device, device_at, find_devices
from models.finetuning.piece import leave_out
from models.finetuning.processes import (
    POLL_SECONDS,
    SMALLER_ENVIRONMENT,
    default_jobs,
    environment,
    failure,
    is_retried,
    memory_is_short,
    stop,
    what_happened,
)
from tools.timetable import Pace, Task, clock_time, described, kept_for_blend, next_task, read_budget, timetable

RECORD = "clock.json"  # in the run's folder
STARTED = "RUN_STARTED"  # when the clock was started, in seconds since 1970
NOTHING_YET = 3  # exit status: nothing is finished so far, and nothing went wrong


@dataclass(frozen=True)
class Clock:
    """The time there is, in seconds since 1970."""

    started: float
    budget: float

    @classmethod
    def of(cls, budget: float) -> "Clock":
        """Started when run_all.sh was, or now."""
        return cls(float(os.environ.get(STARTED) or time.time()), budget)

    @property
    def passed(self) -> float:
        """Seconds since it was started."""
        return time.time() - self.started

    @property
    def left(self) -> float:
        """Seconds until all pieces have to be finished, so that there is time for the blend."""
        return self.budget - kept_for_blend(self.budget) - self.passed


@dataclass(frozen=True)
class Places:
    """Where pieces run: so many at a time, on devices if there are any."""

    number: int
    devices: tuple[Device, ...] = ()

    def device(self, place: int) -> Device | None:
        return device_at(place, self.number, self.devices)

    @property
    def names(self) -> list[str]:
        """What the places are called."""
        named = [self.device(place) for place in range(self.number)]
        return [f"{one.kind} {one.name}".strip() if one else "CPU" for one in named]

    @property
    def kind(self) -> str:
        """What measured times are comparable on."""
        return f"{self.number} x {self.devices[0].kind or 'CPU' if self.devices else 'CPU'}, {machine.cores()} cores"

    def rate(self, bfloat16: bool) -> float:
        """Operations a second at one place."""
        own = self.devices[0].rate if self.devices else None
        return own or needs.processor_rate(bfloat16) / self.number


def find_places(jobs: int | None, quick: bool, pieces: int, memory: int) -> Places:
    """One piece on each device, or `jobs` at a time; against the clock large ones on a CPU come one after another.

    Args:
        pieces: of the whole run, whatever is left of it: how they divide the cores decides how sums are rounded.
        memory: bytes of the largest piece's process.
    """
    devices = find_devices()
    return Places(jobs or (default_jobs(quick, pieces, memory) if quick or devices else 1), tuple(devices))


class Record:
    """clock.json: what pieces took, in this start and in earlier ones, on whatever machine."""

    def __init__(self, run: Path, kind: str) -> None:
        self.path, self.kind = run / RECORD, kind
        self.rows: list[dict[str, Any]] = _rows_of(self.path)

    def add(self, task: Task, seconds: float, ended: str) -> None:
        """Keeps how long a process ran, and how it ended: 'finished', 'stopped', 'broken off' or 'failed'."""
        own = {"model": task.model, "fold": task.fold, "seconds": round(seconds, 1), "ended": ended}
        self.rows.append(own | {"estimate": round(task.estimate, 1), "on": self.kind})
        write_json(self.path, self.rows)

    def spent(self, model: str, fold: int | str) -> float:
        """Seconds that unfinished starts of a piece took here."""
        rows = [row for row in self.rows if (row["model"], row["fold"]) == (model, fold) and row["on"] == self.kind]
        return float(sum(row["seconds"] for row in rows if row["ended"] in ("stopped", "broken off")))

    def pace(self) -> Pace:
        """What the pieces that finished on such a machine took, all their starts together."""
        pace = Pace()
        for row in self.rows:
            if row["ended"] == "finished" and row["on"] == self.kind:
                pace.add(row["model"], row["seconds"] + self.spent(row["model"], row["fold"]), row["estimate"])
        return pace


def _rows_of(path: Path) -> list[dict[str, Any]]:
    """What clock.json holds. Damaged, it is begun anew: without it the estimates are only rougher."""
    if not path.exists():
        return []
    try:
        rows = read_json(path)
        known = {"model", "fold", "seconds", "ended", "estimate", "on"}
        if not isinstance(rows, list) or not all(isinstance(row, dict) and known <= set(row) for row in rows):
            raise UserError(f"{path}: expected what pieces took, found something else.")
    except UserError as error:
        print(f"note: {error} What pieces took before is forgotten.", file=sys.stderr)
        return []
    return rows


def task_of(run: Path, model: str, fold: int | str, estimate: float, record: Record) -> Task:
    """The piece as the timetable knows it."""
    begun = (fold_folder(run, model, fold) / "config.json").exists()
    return Task(model, fold, estimate, begun, record.spent(model, fold) if begun else 0.0)


def work_off(
    tasks: Sequence[Task],
    command_of: Callable[[Task], list[str]],
    places: Places,
    clock: Clock,
    record: Record,
    give_up: Callable[[Task, str], None] = lambda task, what: None,
    limit: int | None = None,
    why: Callable[[Task], str] = lambda task: "",
) -> dict[str, list[Task]]:
    """Starts pieces as processes, as long as there is one that can finish; each one's device is its own.

    One that runs out of memory or is killed is retried with less memory, as `run_folds` does.

    Args:
        give_up: is called with each failed piece that left no reason, and what happened.
        why: the reason that a failed piece left in its folder; empty without one.
        limit: at most so many places are filled, where memory is short.

    Returns:
        The pieces by how they ended: 'finished', 'stopped', 'failed', and 'left', for which there was no time.
    """
    waiting, pace = list(tasks), record.pace()
    running: dict[int, tuple[Task, subprocess.Popen, float]] = {}  # by place
    ended: dict[str, list[Task]] = {"finished": [], "stopped": [], "failed": []}
    broken: dict[tuple[str, int | str], int] = {}  # exit statuses of those that are retried, by model and fold

    def end(place: int, how: str) -> float:
        task, _, begun = running.pop(place)
        seconds = time.time() - begun
        ended.setdefault(how, []).append(task)
        record.add(task, seconds, how)
        if how == "finished":
            pace.add(task.model, seconds + task.spent, task.estimate)
        return seconds

    def judge(place: int, status: int) -> None:
        task = running[place][0]
        first = broken.get((task.model, task.fold))
        if status in (0, USER_ERROR, DIVERGED, STOPPED):  # it has printed what happened
            end(place, "failed" if status else "finished")
        elif is_retried(status) and first is None:
            broken[task.model, task.fold] = status
            seconds = end(place, "broken off")
            waiting.append(dataclasses.replace(task, begun=True, spent=task.spent + seconds))
            say(f"note: {task} {what_happened(status)}: once more, smaller in memory")
        else:
            reason = why(task)
            what = failure([status] if first is None else [first, status], reason)
            end(place, "failed")
            if not reason:
                give_up(task, what)
            say(f"error: {task} {what}")

    try:
        while True:
            for place in sorted(set(range(limit or places.number)) - set(running)):
                task = next_task(waiting, pace, clock.left)
                if task is None:
                    break
                waiting.remove(task)
                expected = needs.duration(pace.seconds(task))
                say(f"{clock_time(clock.passed)}  {places.names[place]}: {task} begins, at most {expected} as it seems")
                own = environment(str(task), places.number, place, places.device(place))
                words = command_of(task)
                if (task.model, task.fold) in broken:
                    own, words = own | SMALLER_ENVIRONMENT, [*words, "--workers", "1"]
                running[place] = (task, subprocess.Popen(words, env=own, cwd=REPOSITORY), time.time())
            if not running:
                return ended | {"left": waiting}
            _wait([process for _, process, _ in running.values()], clock.left)
            for place, (_, process, _) in list(running.items()):
                if process.poll() is not None:
                    judge(place, process.returncode)
            if clock.left <= 0:
                stop([process for _, process, _ in running.values()])
                for place, (_, process, _) in list(running.items()):
                    end(place, "finished" if process.returncode == 0 else "stopped")
    finally:
        stop([process for _, process, _ in running.values()])
        for place in list(running):
            end(place, "stopped")


def _wait(processes: Sequence[subprocess.Popen], seconds: float) -> None:
    """Returns when one of the processes has ended, or after `seconds`."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and all(process.poll() is None for process in processes):
        with contextlib.suppress(subprocess.TimeoutExpired):
            processes[0].wait(POLL_SECONDS)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def make_parser() -> CommandLine:
    parser = CommandLine(prog="python -m tools.schedule", description=__doc__)
    parser.add_argument("--models", type=names_in, required=True, metavar='"A B"', help="architectures")
    parser.add_argument("--time-budget", type=read_budget, required=True, metavar="T", help="such as 8h30m")
    parser.add_argument("options", nargs="*", metavar="-- OPTIONS", help="of every architecture's script")
    return parser


def options_parser() -> CommandLine:
    parser = CommandLine(prog="python models/NAME.py")
    command.add_common_options(parser)
    return parser


def main() -> None:
    asked = make_parser().parse_args()
    arguments = options_parser().parse_args(asked.options)
    clock = Clock.of(asked.time_budget)
    templates = [command.template_piece(one, arguments) for one in zoo.find_all(asked.models)]
    run = templates[0].run
    checked, table, folds = command.read_data(arguments, run)
    of_models = [[dataclasses.replace(template, fold=fold) for fold in folds] for template in templates]
    pieces = [piece for of_model in of_models for piece in of_model]
    left = [piece for of_model in of_models for piece, _ in command.unfinished(of_model, checked)]
    memory = max(needs.fold_memory(piece.architecture, piece.recipe) for piece in pieces)
    places = find_places(arguments.jobs, arguments.quick, len(pieces), memory)
    record = Record(run, places.kind)
    rate = places.rate(runtime.expects_bfloat16(arguments.precision))
    counts = (len(table), len(checked.test), int(table["fold"].nunique()))
    tasks = []
    for piece in left:
        estimate = needs.piece_seconds(piece.architecture, piece.recipe, *counts, rate)
        tasks.append(task_of(run, piece.model_name, piece.fold, estimate, record))
    fits = places.number if arguments.jobs else needs.at_a_time(places.number, memory)
    if fits < places.number:
        say(memory_is_short(fits, places.number))
    entries, without = timetable(tasks, record.pace(), fits, clock.left)
    say(described(entries, without, places.names, clock.passed))
    architecture_of = {piece.model_name: piece.architecture.name for piece in pieces}

    def command_of(task: Task) -> list[str]:
        script = str(REPOSITORY / "models" / f"{architecture_of[task.model]}.py")
        return [sys.executable, script, *asked.options, "--fold", str(task.fold)]

    by_place = {(piece.model_name, piece.fold): piece for piece in left}

    def give_up(task: Task, what: str) -> None:
        leave_out(by_place[task.model, task.fold], what)

    def why(task: Task) -> str:
        return why_it_failed(by_place[task.model, task.fold].folder)

    ended = work_off(tasks, command_of, places, clock, record, give_up, fits, why)
    finished = len(pieces) - len(left) + len(ended["finished"])
    say(_told(ended, finished, len(pieces), clock))
    if finished == 0:
        if ended["failed"]:
            raise UserError("no piece could be finished; see above. Fix what went wrong, run the same command again.")
        if not ended["stopped"]:
            shortest = needs.duration(min(record.pace().seconds(task) for task in tasks))
            left_time = needs.duration(max(0.0, clock.left))
            raise UserError(
                f"no piece can be finished in the {left_time} that are left for training: the shortest takes about "
                f"{shortest}, margins included. Try a larger --time-budget, a smaller --image-size, or --quick."
            )
        sys.exit(NOTHING_YET)


def _told(ended: dict[str, list[Task]], finished: int, of: int, clock: Clock) -> str:
    lines = [f"{clock_time(clock.passed)}  {finished} of {of} pieces are finished"]
    words = {"stopped": "stopped, will resume", "left": "no time for", "failed": "FAILED"}
    lines += [f"{text}: {'; '.join(map(str, ended[how]))}" for how, text in words.items() if ended[how]]
    if len(lines) > 1:
        lines.append("The same command goes on with them.")
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(main)
