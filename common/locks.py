"""Locks between processes, by filelock: the system releases them when their process ends, however it ends.

A lock file that is left over therefore means nothing. It names the process that holds it, for messages.
"""

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UserError
from common.files import cannot_write
from common.terminal import say

if TYPE_CHECKING:
    from filelock import BaseFileLock

QUIET_SECONDS = 30.0  # of waiting, before a message
FOREVER = -1


@contextlib.contextmanager
def held(path: Path, doing: str, wait: bool = False) -> Iterator[None]:
    """Holds a lock; another process that wants it prints which process has it.

    Args:
        path: the lock file; it is there while the block runs, and after it only if the process was killed.
        doing: what is done under it, such as 'runs/full/folds.csv is being written'.
        wait: for another process to release it, instead of an error; after `QUIET_SECONDS` a message says so.

    Raises:
        UserError: another process has it and `wait` is false, or the folder cannot be written to.
    """
    lock = acquire(path, QUIET_SECONDS if wait else 0)
    if lock is None:
        holder = ""
        with contextlib.suppress(OSError):
            holder = path.read_text(errors="replace").strip()
        message = f"{doing} by another process: {holder or 'unknown'}."
        if not wait:
            raise UserError(f"{message} Wait for it, or stop it.")
        say(f"{message} Waiting for it (Ctrl-C ends this).")
        lock = acquire(path, FOREVER)
    try:
        yield
    finally:
        release(lock)


def acquire(path: Path, seconds: float = 0) -> "BaseFileLock | None":
    """Takes a lock, to be given to `release`; None where another process has it all the time.

    Raises:
        UserError: the folder cannot be written to.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, thread_local=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=seconds)
    except Timeout:
        return None
    except OSError as error:
        raise cannot_write(path.parent, error) from error
    with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
        path.write_text(f"process {os.getpid()} on {platform.node()}\n")
    return lock


def release(lock: "BaseFileLock | None") -> None:
    """Releases a lock and removes its file."""
    if lock is not None:
        with contextlib.suppress(OSError):  # filelock never takes a file without a name, so nobody waits in vain
            Path(lock.lock_file).unlink()
        lock.release()


def is_held(path: Path) -> bool:
    """Whether a process holds the lock."""
    lock = acquire(path)
    release(lock)
    return lock is None
