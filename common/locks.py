"""Who works where: lock files that name their process, and temporary files that tell whether their writer still lives.

The locks are the system's (flock): they end with the process that holds them, however it ends, so a lock file that was
left lying means nothing. Where a file system has no such locks, things go on without them.
"""

import contextlib
import fcntl
import functools
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from common.errors import UserError, run_command


@contextlib.contextmanager
def held(path: Path, doing: str, wait: bool = False) -> Iterator[None]:
    """Holds a lock; another process that wants it is told which process has it.

    Args:
        path: the lock file; it is there while the block runs, and after it only if the process was killed.
        doing: what is done under it, such as 'runs/full/ensemble is being written'.
        wait: until another process lets go, having said so, instead of refusing.

    Raises:
        UserError: another process has it and `wait` is false, or the folder cannot be written to.
    """
    told = ""
    while True:
        with _opened(path) as lock:
            if not _taken(lock.fileno()):
                if not told:
                    told = f"{doing} by another process: {_holder(lock.fileno())}."
                    if not wait:
                        raise UserError(f"{told} Wait for it, or stop it.")
                    print(f"{told} Waiting for it (Ctrl-C ends this).", file=sys.stderr, flush=True)
                fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_at(lock.fileno(), path):  # who held it removed it
                continue
            try:
                _sign(lock.fileno(), os.getpid())
                yield
            finally:
                with contextlib.suppress(OSError):
                    path.unlink()
            return


def divide(files: Sequence[Path], is_there: Callable[[Path], bool], make: Callable[[Path], None]) -> None:
    """Makes files that other processes may be making too, each of them once: first those that nobody is at.

    Args:
        is_there: whether a file is made.
        make: makes it; under its lock, FOLDER/.NAME.lock.

    Raises:
        UserError: the folder cannot be written to.
    """
    for wait in (False, True):
        left = []
        for file in files:
            with _share(file.with_name(f".{file.name}.lock"), wait) as mine:
                if not mine and not wait:
                    left.append(file)
                elif not is_there(file):
                    make(file)
        files = left


@contextlib.contextmanager
def _share(path: Path, wait: bool) -> Iterator[bool]:
    """Holds a lock; False where another process has it, or had it until now."""
    with _opened(path) as lock:
        mine = _taken(lock.fileno())
        if not mine and wait:
            print(f"waiting for {_holder(lock.fileno())}, which makes {path.parent}", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
            mine = True
        if not mine or not _is_at(lock.fileno(), path):
            yield False
            return
        try:
            _sign(lock.fileno(), os.getpid())
            yield True
        finally:
            with contextlib.suppress(OSError):
                path.unlink()


def _opened(path: Path) -> IO[bytes]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+b", buffering=0)
    except OSError as error:
        raise UserError(
            f"cannot write {path.parent}: {error.strerror}. Expected a folder that can be written to, with free space; "
            "mend it or choose another, and start the same command again."
        ) from error


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one that has this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _taken(descriptor: int) -> bool:
    """Tries to take a lock; False where another process has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        _say_without_locks(error.strerror or str(error))
    return True


@functools.cache
def _say_without_locks(why: str) -> None:
    print(f"note: no locks on this file system ({why}): start nothing twice.", file=sys.stderr)


def _holder(descriptor: int) -> str:
    return os.pread(descriptor, 1000, 0).decode(errors="replace").strip() or "unknown"


def _sign(descriptor: int, process: int) -> None:
    with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {process} on {platform.node()}\n".encode())


@contextlib.contextmanager
def temporary(folder: Path, name: str, make: Callable[[str], str]) -> Iterator[Path]:
    """A temporary file or folder beside what it will become, which `sweep` knows to be in use while the block runs.

    Those for the same name that killed processes left behind are removed first.

    Args:
        name: of what it will become.
        make: makes it, given the beginning of its name; returns its path.

    Raises:
        OSError: the folder cannot be written to.
    """
    beginning = f".{name}.part-"
    sweep(folder, beginning)
    descriptor = None
    try:
        while descriptor is None:
            path = make(beginning)
            descriptor = _marked(path)
        yield Path(path)
    finally:
        if descriptor is not None:
            os.close(descriptor)


class InUse:
    """Marks a folder as in use as long as this object lives, so that `removed_unless_used` leaves it alone."""

    def __init__(self, folder: Path) -> None:
        self._descriptor: int | None = None
        with contextlib.suppress(OSError):  # a cache that is only read, and does not have it
            while self._descriptor is None:
                folder.mkdir(parents=True, exist_ok=True)
                self._descriptor = _marked(str(folder))

    def __del__(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


def _marked(path: str) -> int | None:
    """Marks a file or a folder as in use; None where it was removed before that."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with contextlib.suppress(OSError):  # no locks here, so nobody sweeps either
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    if _is_at(descriptor, Path(path)):
        return descriptor
    os.close(descriptor)
    return None


def sweep(folder: Path, beginning: str) -> None:
    """Removes temporary files and folders whose writer is dead."""
    for path in folder.iterdir():
        if re.fullmatch(re.escape(beginning) + r"[a-z0-9_]{8}(\..*)?", path.name):
            removed_unless_used(path)


def removed_unless_used(path: Path) -> bool:
    """Removes a file or a folder, unless a living process uses it; whether it is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return not path.exists()
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    except OSError:  # in use, or another process was first
        return not path.exists()
    finally:
        os.close(descriptor)
    return True


def main() -> None:
    """python -m common.locks DESCRIPTOR FILE RUN: locks an open file for the shell that started this."""
    descriptor, path, run = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    if not _taken(descriptor) or not _is_at(descriptor, path):
        with _opened(path) as lock:
            told = f"the run {run} is being made by another run_all.sh: {_holder(lock.fileno())}."
            raise UserError(f"{told} Wait for it, stop it, or choose another --run.")
    _sign(descriptor, os.getppid())


if __name__ == "__main__":
    run_command(main)
