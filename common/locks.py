"""Locks between processes, by filelock: the system releases them when their process ends, however it ends.

A lock file that is left over therefore means nothing. It names the process that holds it, for messages.
"""

import contextlib
import errno
import functools
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UserError
from common.files import cannot_write
from common.terminal import say

if TYPE_CHECKING:
    from filelock import BaseFileLock

_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}  # of some network drives
QUIET_SECONDS = 30.0  # of waiting, before a message
FOREVER = -1


@contextlib.contextmanager
def held(path: Path, doing: str, wait: bool = False) -> Iterator[None]:
    """Holds a lock; another process that wants it prints which process has it.

    Args:
        path: the lock file; it is there while the block runs, and after it only if the process was killed.
        doing: what is done under it, such as 'runs/full/ensemble is being written'.
        wait: for another process to release it, instead of an error; after `QUIET_SECONDS` a message says so.

    Raises:
        UserError: another process has it and `wait` is false, or the folder cannot be written to.
    """
    lock = acquire(path, QUIET_SECONDS if wait else 0)
    if lock is None:
        holder = "unknown"
        with contextlib.suppress(OSError):
            holder = path.read_text(errors="replace").strip() or holder
        message = f"{doing} by another process: {holder}."
        if not wait:
            raise UserError(f"{message} Wait for it, or stop it.")
        say(f"{message} Waiting for it (Ctrl-C ends this).")
        lock = acquire(path, FOREVER)
    try:
        yield
    finally:
        release(lock)


def divide(files: Sequence[Path], is_there: Callable[[Path], bool], make: Callable[[Path], None]) -> None:
    """Makes files that other processes may be making too, each of them once: unlocked files first.

    Args:
        is_there: whether a file is made.
        make: makes it; under its lock, FOLDER/.NAME.lock.

    Raises:
        UserError: the folder cannot be written to.
    """
    lock_of = {file: file.with_name(f".{file.name}.lock") for file in files}
    busy = []
    for file in files:
        lock = acquire(lock_of[file])
        if lock is None:
            busy.append(file)
            continue
        try:
            if not is_there(file):
                make(file)
        finally:
            release(lock)
    for file in busy:
        with held(lock_of[file], f"{file} is being written", wait=True):
            if not is_there(file):
                make(file)


def acquire(path: Path, seconds: float = 0) -> "BaseFileLock | None":
    """Takes a lock, to be given to `release`; None where another process has it all the time.

    A file system without locks stops nothing: a note is printed.

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
        if error.errno not in _NO_LOCKS:
            raise cannot_write(path.parent, error) from error
        _report_no_locks(error.strerror or str(error))
    with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
        path.write_text(f"process {os.getpid()} on {platform.node()}\n")
    return lock


def release(lock: "BaseFileLock | None") -> None:
    """Releases a lock and removes its file."""
    if lock is not None:
        with contextlib.suppress(OSError):  # filelock never takes a file without a name, so nobody waits in vain
            Path(lock.lock_file).unlink()
        lock.release()


@functools.cache
def _report_no_locks(why: str) -> None:
    say(f"note: no locks on this file system ({why}): start nothing twice.")
