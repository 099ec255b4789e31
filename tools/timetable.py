"""Which piece begins when, and on which device, so that as much as possible is finished when the time is up.

It knows of a piece only its name, its number and how long it takes. Those that were begun come first, since part of
them is paid for. Then fold 0 of every model, the shortest first, then fold 1 of every model, and so on: a second
network of another kind adds more to a blend than a second fold of the same one, and the blend is judged on the folds
that all its models have. A piece that cannot finish any more is passed over for a shorter one that can.
"""

import argparse
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

UNMEASURED_MARGIN = 1.5  # on estimates by operations alone
SCALED_MARGIN = 1.25  # on estimates that other models' measured times correct
MEASURED_MARGIN = 1.1  # on the measured time of other folds of the same model
LEAST_REST = 0.25  # of a piece that was begun: the epoch that was lost, and the predictions
BLEND_SHARE, BLEND_MOST = 0.1, 600.0  # of the budget, and seconds: kept for the blend


@dataclass(frozen=True)
class Task:
    """One piece that is still to be made.

    Attributes:
        model: its name in the run.
        fold: its number.
        estimate: seconds from beginning to end, by operations.
        begun: an earlier start left something to go on from.
        spent: seconds that earlier starts took.
    """

    model: str
    fold: int | str
    estimate: float
    begun: bool = False
    spent: float = 0.0

    def __str__(self) -> str:
        return f"{self.model}, fold {self.fold}"


@dataclass(frozen=True)
class Entry:
    """One line of the timetable: seconds from now, and the place of the device."""

    begins: float
    ends: float
    place: int
    task: Task


@dataclass
class Pace:
    """What pieces really took here, which tells how long the others will take."""

    measured: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # by model, seconds
    ratios: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # to the estimate

    def add(self, model: str, seconds: float, estimate: float) -> None:
        """A piece has finished."""
        self.measured[model].append(seconds)
        self.ratios[model].append(seconds / estimate)

    def seconds(self, task: Task) -> float:
        """How long a piece will still take, with a margin for what is not known."""
        if self.measured[task.model]:
            whole = MEASURED_MARGIN * _mean(self.measured[task.model])
        elif any(self.ratios.values()):
            of_models = [_mean(ratios) for ratios in self.ratios.values() if ratios]
            whole = SCALED_MARGIN * task.estimate * max(of_models)
        else:
            whole = UNMEASURED_MARGIN * task.estimate
        return max(whole - task.spent, LEAST_REST * whole)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def ordered(tasks: Sequence[Task], pace: Pace) -> list[Task]:
    """By what they bring: what was begun, then breadth before depth, the shortest first."""
    return sorted(tasks, key=lambda task: (not task.begun, str(task.fold).zfill(3), pace.seconds(task), task.model))


def next_task(tasks: Sequence[Task], pace: Pace, left: float) -> Task | None:
    """The most useful piece that can finish in `left` seconds; None where none can."""
    return next((task for task in ordered(tasks, pace) if pace.seconds(task) <= left), None)


def timetable(tasks: Sequence[Task], pace: Pace, places: int, left: float | None) -> tuple[list[Entry], list[Task]]:
    """What begins when, if everything takes as long as is thought now.

    Args:
        places: pieces at a time.
        left: seconds until everything has to be finished; None where there is no hurry, and so no order and no margin.

    Returns:
        The entries in the order of their beginning, and the pieces for which there is no time.
    """
    waiting, entries = list(tasks), list[Entry]()
    free_at = [0.0] * places
    while waiting:
        place = min(range(places), key=lambda one: free_at[one])
        task = waiting[0] if left is None else next_task(waiting, pace, left - free_at[place])
        if task is None:  # nor on a device that is free later
            break
        waiting.remove(task)
        ends = free_at[place] + (task.estimate if left is None else pace.seconds(task))
        entries.append(Entry(free_at[place], ends, place, task))
        free_at[place] = ends
    return entries, ordered(waiting, pace)


def kept_for_blend(budget: float) -> float:
    """Seconds of the budget in which no piece may run any more."""
    return min(BLEND_SHARE * budget, BLEND_MOST)


def described(entries: Sequence[Entry], left_out: Sequence[Task], places: Sequence[str], now: float = 0.0) -> str:
    """The timetable as lines for the terminal.

    Args:
        places: what the devices are called.
        now: seconds since the clock was started.
    """
    width = max([len(name) for name in places] + [2])
    lines = [f"    begins      ends  {'on':<{width}}  piece"]
    for entry in entries:
        note = ", begun before" if entry.task.begun else ""
        begins, ends = clock_time(now + entry.begins), clock_time(now + entry.ends)
        lines.append(f"{begins:>10}{ends:>10}  {places[entry.place]:<{width}}  {entry.task}{note}")
    if left_out:
        lines.append(f"no time for: {'; '.join(map(str, left_out))}")
    return "\n".join(lines)


def clock_time(seconds: float) -> str:
    """'8:30:00'"""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def read_budget(text: str) -> float:
    """Seconds of '8h30m', '45m', '90s'; for the command line."""
    match = re.fullmatch(r"(?:(\d{1,4})h)?(?:(\d{1,6})m)?(?:(\d{1,8})s)?", text)
    counts = [int(number or 0) for number in match.groups()] if match else []
    seconds = sum(count * unit for count, unit in zip(counts, (3600, 60, 1), strict=False))
    if not seconds:
        raise argparse.ArgumentTypeError(f"expected hours, minutes, seconds such as 8h30m or 45m, found {text!r}")
    return float(seconds)
