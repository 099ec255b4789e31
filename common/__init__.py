"""What every package uses: errors, settings, files, locks, the run folder, prediction tables, the metric.

Every package imports this first. Where a command starts, Ctrl-C and SIGTERM then end it with one line and status 130
until `errors.run_command` takes over, and its environment is pinned before anything that reads it is imported.
"""

import os
import signal
import sys
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
    from pathlib import Path  # slow to import, and our scripts have done so

    return script is not None and Path(script).resolve().parent == Path(__file__).resolve().parents[1] / "models"


if is_command():
    for signal_number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(signal_number) == default:  # else it is ignored: another process decides
            signal.signal(signal_number, end_quietly)

    from common import environment

    environment.pin_command()
