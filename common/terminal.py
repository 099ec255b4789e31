"""What a person sees while a command works: bars on a terminal, and lines that do not collide with them.

A fold has one line at the bottom of the screen, whatever it does: several processes draw there, each on its own line.
"""

import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from tqdm import tqdm

VERBOSE = "STATEFARM_VERBOSE"  # set where every line of a fold's log is printed too
LABEL = "STATEFARM_LABEL"  # what a process works on: 'vgg16, fold 0'
LINE = "STATEFARM_LINE"  # of a process's bars, counted from 0
_CLEAR = "\r\x1b[J"  # from the start of the line to the end of the screen: bars are drawn again, by whoever drew them
_UP = "\x1b[A"
_FORMAT = "{desc} {percentage:3.0f} % |{bar}| {remaining} left{postfix}"


def is_watched() -> bool:
    """Whether bars are drawn: not in a pipe, a file, or a notebook's cell, which calls itself a terminal."""
    own = os.environ.get("TERM") != "dumb" and "JPY_PARENT_PID" not in os.environ
    return own and sys.stdout.isatty() and sys.stderr.isatty()


def say(text: str, stream: TextIO | None = None) -> None:
    """Prints a line, on standard error where no stream is named, above the bars of all processes."""
    stream = stream or sys.stderr
    stream.write(f"{_CLEAR if is_watched() else ''}{text}\n")  # in one call: other processes write too
    stream.flush()


def draw(text: str, line: int | None = None) -> None:
    """Shows a text on a line at the bottom of the screen, this process's own by default; the cursor stays."""
    line = int(os.environ.get(LINE, "0")) if line is None else line
    if is_watched():
        sys.stderr.write("\n" * line + f"\r\x1b[K{text}" + _UP * line + "\r")
        sys.stderr.flush()


def bar(total: int, title: str, shown: bool = True, **options: Any) -> "tqdm[Any]":
    """A progress bar on this process's line, which is empty again after it.

    Args:
        shown: where a person watches.
        options: of tqdm besides.
    """
    from tqdm import tqdm

    class Bar(tqdm):
        def display(self, msg: str | None = None, pos: int | None = None) -> None:
            draw(str(self) if msg is None else msg)

    label = os.environ.get(LABEL, "")
    title = f"{label}: {title}" if label else title
    options |= {"leave": False, "disable": not (shown and is_watched()), "dynamic_ncols": True, "bar_format": _FORMAT}
    return Bar(total=total, desc=title, **options)
