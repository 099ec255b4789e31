"""Locks between processes, by filelock: the system releases them when their process ends, however it ends.

A lock file that is left over therefore means nothing. It names the process that holds it, for messages.
"""

import contextlib
import errno
import fcntl
import functools
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UserError, run_command

if TYPE_CHECKING:
    from filelock import BaseFileLock

_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}  # of some network drives


@contextlib.contextmanager
def held(path: Path, doing: str, wait: bool = False) -> Iterator[None]:
    """Holds a lock; another process that wants it is told which process has it.

    Args:
        path: the lock file; it is there while the block runs, and after it only if the process was killed.
        doing: what is done under it, such as 'runs/full/ensemble is being written'.
        wait: for another process to release it, after a message, instead of an error.

    Raises:
        UserError: another process has it and `wait` is false, or the folder cannot be written to.
    """
    lock = acquire(path)
    if lock is None:
        message = f"{doing} by another process: {_holder(path)}."
        if not wait:
            raise UserError(f"{message} Wait for it, or stop it.")
        print(f"{message} Waiting for it (Ctrl-C ends this).", file=sys.stderr, flush=True)
        lock = acquire(path, wait=True)
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
    busy = []
    for file in files:
        lock = acquire(_lock_of(file))
        if lock is None:
            busy.append(file)
            continue
        try:
            if not is_there(file):
                make(file)
        finally:
            release(lock)
    for file in busy:
        with held(_lock_of(file), f"{file} is being written", wait=True):
            if not is_there(file):
                make(file)


def acquire(path: Path, wait: bool = False) -> "BaseFileLock | None":
    """Takes a lock, to be given to `release`; None where another process has it.

    A file system without locks stops nothing: a note says that it has none.

    Raises:
        UserError: the folder cannot be written to.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, thread_local=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=wait)
    except Timeout:
        return None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise UserError(
                f"cannot write {path.parent}: {error.strerror}. Expected a folder that can be written to, with free "
                "space; fix it or choose another, and start the same command again."
            ) from error
        _report_no_locks(error.strerror or str(error))
    _sign(path, os.getpid())
    return lock


def release(lock: "BaseFileLock | None") -> None:
    """Releases a lock and removes its file."""
    if lock is not None:
        with contextlib.suppress(OSError):  # filelock never takes a file without a name, so nobody waits in vain
            Path(lock.lock_file).unlink()
        lock.release()


def _lock_of(file: Path) -> Path:
    return file.with_name(f".{file.name}.lock")


@functools.cache
def _report_no_locks(why: str) -> None:
    print(f"note: no locks on this file system ({why}): start nothing twice.", file=sys.stderr)


def _holder(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace").strip() or "unknown"
    return "unknown"


def _sign(path: Path, process: int) -> None:
    with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
        path.write_text(f"process {process} on {platform.node()}\n")


def main() -> None:
    """python -m common.locks DESCRIPTOR FILE RUN: locks an open file for the shell that started this."""
    descriptor, path, run = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        message = f"the run {run} is being made by another run_all.sh: {_holder(path)}."
        raise UserError(f"{message} Wait for it, stop it, or choose another --run.") from None
    except OSError as error:
        _report_no_locks(error.strerror or str(error))
    _sign(path, os.getppid())


if __name__ == "__main__":
    run_command(main)
