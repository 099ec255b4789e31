"""Ctrl-C and SIGTERM while a command's modules are still being imported: one line and status 130, no traceback.

Every package's `__init__` imports this module before anything large. `errors.run_command` takes over from here.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType

STOPPED = "\nstopped. The same command goes on from here; nothing finished is lost."


def end_quietly(number: int, frame: FrameType | None) -> None:
    """A signal handler: nothing is open yet, and an exception could be caught by whatever is imported just now."""
    os.write(2, f"{STOPPED}\n".encode())
    os._exit(130)


def is_command() -> bool:
    """Whether this process runs one of our commands; a notebook or another program that imports us does not."""
    if sys.argv[0] == "-m":  # `python -m` is still looking for the module, and imports its package for that
        return True
    script = getattr(sys.modules["__main__"], "__file__", None)
    if script is None:
        return False
    from pathlib import Path  # slow to import, and our scripts have done so

    return Path(script).resolve().parent == Path(__file__).resolve().parent.parent / "models"


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


if is_command():
    for signal_number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(signal_number) == default:  # else it is ignored: another process decides
            signal.signal(signal_number, end_quietly)
