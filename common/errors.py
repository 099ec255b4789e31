"""What a person is told while a command works: bars and lines on the terminal, and errors, which become lines there.

A fold has one line at the bottom of the screen, whatever it does: several processes draw there, each on its own line.
"""

import contextlib
import errno
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import common
from common.environment import OF_EXECUTOR

if TYPE_CHECKING:
    from tqdm import tqdm

# Exit statuses of commands. 1 is a bug or a failing system, with a traceback or a message.
USER_ERROR = 2
SOME_FAILED = 3  # of several folds; the others finished
DIVERGED = 4  # the loss is not a number any more: another try would end the same
OUT_OF_MEMORY = 5
NOTHING_FINISHED = 6  # in the time budget; the next start resumes
STOPPED = 130  # by Ctrl-C or SIGTERM

OWN = ("common", "preprocessing", "models", "ensemble", "pipeline", "tools")  # packages of this repository
OF_THE_SYSTEM = {  # what no command can help: disks, mounts, permissions
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENOSPC, errno.EDQUOT),
    *(errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN, errno.ETIMEDOUT, errno.ENODEV, errno.ENXIO),
}
_OF_CUDA = ("OUT_OF_MEMORY", "out of memory", "ALLOC_FAILED")  # in messages of its libraries
_OF_TENSORFLOW = ("InternalError", "UnknownError", "FailedPreconditionError")
STOPS_WITHIN = 3.0  # seconds after Ctrl-C or SIGTERM

VERBOSE = "STATEFARM_VERBOSE"  # set where every line of a fold's log is printed too
LABEL = "STATEFARM_LABEL"  # what a process works on: 'vgg16, fold 0'
LINE = "STATEFARM_LINE"  # of a process's bars, counted from 0
_CLEAR = "\r\x1b[J"  # from the start of the line to the end of the screen: bars are drawn again, by whoever drew them
_UP = "\x1b[A"
_FORMAT = "{desc} {percentage:3.0f} % |{bar}| {remaining} left{postfix}"


class UserError(Exception):
    """A mistake that the user can fix. The message has what was expected, what was found, and what to type next.

    Attributes:
        status: of the command that ends with it.
    """

    status = USER_ERROR


def named(names: Sequence[str], most: int = 3) -> str:
    """The first few of many names, for a message: 'a, b, c and 17 more'."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most:,} more"


def run_command(main: Callable[[], None]) -> None:
    """Runs a command's `main`; a UserError becomes one message and its exit status, Ctrl-C and SIGTERM status 130.

    So do a lack of memory (status 5) and a failing disk or mount (1). Any other exception is a bug: a traceback and 1.
    """
    stopping = _Stopping()
    try:
        main()
    except UserError as error:
        _end(masked(str(error)), error.status)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in OWN:
            raise
        _end(f"the package {error.name} is not installed for {sys.executable}. {_to_install()}", USER_ERROR)
    except KeyboardInterrupt:
        stopping.say()
        sys.exit(STOPPED)
    except BrokenPipeError:  # the reader of our output (head, less) has left
        sys.stderr.close()
        sys.exit(1)
    except Exception as error:
        if stopping.heard:  # what was interrupted failed in its own way
            stopping.say()
            sys.exit(STOPPED)
        if is_out_of_memory(error):
            _end(f"out of memory: {last_line(error)}", OUT_OF_MEMORY)
        if type(error).__name__ == "UnimplementedError" and "determinis" in str(error):  # TensorFlow, on GPUs
            advice = "Start the same command with --deterministic no: two runs may then differ in the last digits."
            _end(f"{last_line(error)} {advice}", USER_ERROR)
        if not (isinstance(error, OSError) and error.errno in OF_THE_SYSTEM and error.filename):
            raise
        advice = "What is finished is kept. See to the disk or the permissions; then the same command goes on."
        _end(f"{error.filename}: {error.strerror}. {advice}", 1)  # not 2: other folds may go on


def _end(message: str, status: int) -> NoReturn:
    say(f"error: {message}")
    sys.exit(status)


def _to_install() -> str:
    """What to type where a package is missing, for the Python that runs this."""
    environment = Path(__file__).resolve().parent.parent / ".venv"
    if Path(sys.prefix).resolve() == environment.resolve():
        return "Install it: .venv/bin/python -m pip install -c requirements/lock.txt -r requirements.txt"
    return "Start ./run_all.sh --help once: it sets up .venv. Then type .venv/bin/python instead of python."


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, OpenCV, the system or a backend says so. Backends are known by name: nothing is imported here."""
    kind, text = type(error).__name__, str(error)
    return (
        isinstance(error, MemoryError)
        or getattr(error, "errno", None) == errno.ENOMEM
        or kind == "ResourceExhaustedError"  # TensorFlow
        or (kind.endswith("RuntimeError") and text.startswith("RESOURCE_EXHAUSTED"))  # JAX
        or (kind in _OF_TENSORFLOW and any(words in text for words in _OF_CUDA))
        or (type(error).__module__.startswith("cv2") and getattr(error, "code", None) == -4)  # StsNoMem
    )


def last_line(error: BaseException) -> str:
    """What an exception says, in one line, as a traceback ends: 'ValueError: expected ...'."""
    said = " ".join(str(error).split())
    return masked(f"{type(error).__name__}: {said[:500]}" if said else type(error).__name__)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Ctrl-C waits for the end of the block. Processes that are started in it never receive it: their parent ends them.

    For the main thread.
    """
    came: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if before == signal.SIG_IGN:  # so do the processes
        yield
        return
    signal.signal(signal.SIGINT, lambda number, frame: came.append(number))  # other threads can receive it meanwhile
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited by new processes
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        signal.signal(signal.SIGINT, before)
        if came:
            signal.raise_signal(signal.SIGINT)


class _Stopping:
    """Ends this process soon after SIGINT or SIGTERM, also in the middle of a long step.

    Python runs signal handlers only between two of its own instructions. A step of training, or the import of a large
    library, can take many seconds until then. The wake-up descriptor is written to at once.
    """

    def __init__(self) -> None:
        self.said = threading.Lock()
        self.heard = False
        signal.signal(signal.SIGTERM, self._hear)
        if signal.getsignal(signal.SIGINT) in (signal.default_int_handler, common.end_quietly):  # else it is ignored
            signal.signal(signal.SIGINT, self._hear)
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.writer, False)
        signal.set_wakeup_fd(self.writer, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, daemon=True).start()

    def say(self) -> None:
        """Prints how to resume, once; not in a process of an executor, which prints it for all of them."""
        if self.said.acquire(blocking=False) and OF_EXECUTOR not in os.environ:
            say(common.STOPPED)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if not self.heard:  # a second signal changes nothing
            self.heard = True
            sys.unraisablehook = lambda unraisable: None  # raised in a finalizer, it would be printed with a traceback
            raise KeyboardInterrupt

    def _watch(self) -> None:
        while number := os.read(self.reader, 1):
            if number[0] in (signal.SIGINT, signal.SIGTERM):
                time.sleep(STOPS_WITHIN)
                self.say()
                os._exit(STOPPED)


MASK = "***"
_SECRET_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
_IN_ADDRESS = re.compile(r"(\w+://)[^/\s:@]*:[^/\s@]+@")  # https://user:password@host
_SHORTEST = 8  # characters of a secret; a shorter one would mask half of an ordinary sentence


def masked(text: str, *others: str) -> str:
    """The text without secrets: passwords, values of environment variables that are named like secrets, and others."""
    found = [value for name, value in os.environ.items() if _SECRET_NAME.search(name) and len(value) >= _SHORTEST]
    for secret in sorted({*found, *others}, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return _IN_ADDRESS.sub(rf"\1{MASK}@", text)


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


def progress_bar(total: int, title: str, shown: bool = True, **options: Any) -> "tqdm[Any]":
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
