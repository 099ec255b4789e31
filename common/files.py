"""Files: written completely or not at all, under a temporary name and then renamed; JSON and CSV, read strictly; locks.

In a CSV file, a row of another length than the header is an error and never shifts the columns. A lock file that is
left over means nothing; it names the process that holds it, for messages.
"""

import contextlib
import csv
import errno
import functools
import hashlib
import io
import json
import os
import platform
import re
import shutil
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError, named, say

if TYPE_CHECKING:
    from filelock import BaseFileLock

QUIET_SECONDS = 30.0  # of waiting, before a message
FOREVER = -1
# A plain file name, in no other folder, and without what spreadsheets divide cells at.
_IMAGE_NAME = re.compile(r"\w[^/\\:;,\"|\x00-\x1f\x7f-\x9f\u2028\u2029]{0,250}\.jpe?g", re.IGNORECASE)
_CHECKSUM_BYTES = 4
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)  # of some network drives


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yields a path beside `path`, for the block to write a file to; when it ends without an error that becomes `path`.

    The temporary file has the suffix of `path`, which some writers insist on. A UserError where the folder cannot be
    written to, or the disk is full.
    """
    path = Path(path)
    with _temporary(path) as temporary:
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)


@contextlib.contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """Yields a new empty folder beside `path`; when the block ends without an error it becomes `path`.

    `path` may be an empty folder; one with something in it is a UserError, as is a disk that cannot be written to.
    """
    path = Path(path).resolve() if Path(path).is_symlink() else Path(path)
    with _temporary(path) as temporary:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserError(f"{path} is there already. Choose another place, or move it away first.")
        temporary.mkdir()
        yield temporary
        temporary.rename(path)


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, which is gone in the end; so are those that killed processes left."""
    if not path.name:  # '.' or '/'
        raise UserError(f"cannot write {path}: expected the name of something new in it, such as {path / 'out'}.")
    temporary = path.with_name(f"{_start_of_temporary(path)}{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        yield temporary
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        _remove(temporary)


def remove_leftovers(path: Path) -> None:
    """Removes the temporary files of `path` that killed processes of this machine left."""
    import psutil

    start = _start_of_temporary(path)
    for leftover in path.parent.iterdir():
        process = leftover.name.removeprefix(start).partition(".")[0]
        if not (leftover.name.startswith(start) and process.isdigit()):
            continue
        if int(process) == os.getpid() or not psutil.pid_exists(int(process)):
            _remove(leftover)


def _start_of_temporary(path: Path) -> str:
    return f".{path.name}.part-{platform.node()}-"


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # gone already, or another process removes it too
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def cannot_write(path: Path, error: OSError) -> UserError:
    """The error to raise where a file or folder cannot be written."""
    return UserError(
        f"cannot write {path}: {error.strerror or error}. Expected a folder that can be written to, with free space; "
        "fix it or choose another, and start the same command again."
    )


def check_writable(folder: Path) -> None:
    """Raises a UserError unless files can be written to the folder, which is made where it is not there."""
    write_text(folder / ".probe", "")
    (folder / ".probe").unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text to `path`, completely or not at all."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, completely or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file; a UserError where it is missing, cannot be read, or is not JSON."""
    try:
        return json.loads(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path}: {error}. Expected a JSON file as this program writes it.") from error


def read_record(path: Path) -> dict[str, Any]:
    """As `read_json`, of a file that holds an object."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"cannot read {path}: expected a JSON object, found {type(value).__name__}.")
    return value


def read_rows(path: Path, what: str) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of a CSV file; a byte order mark and CRLF are accepted, empty lines passed over.

    A UserError says what it should be (`what`, such as 'a fold table') where it is not UTF-8, not CSV, or has rows of
    another length than its header.
    """
    try:
        content = Path(path).read_bytes().decode("utf-8-sig")
        reader = csv.reader(io.StringIO(content, newline=""), strict=True)
        header = next(reader, [])
        lines = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        place = f"line {reader.line_num:,} is not CSV ({error}). Look for a quotation mark too many."
        raise UserError(f"{path}: cannot be read as {what}: {place}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as {what}, or is not UTF-8: {error}") from error
    if ragged := [f"line {number:,} has {len(row)}" for number, row in lines if len(row) != len(header)]:
        found = f"{len(ragged):,} rows without the header's {len(header)} fields ({named(ragged)})."
        raise UserError(f"{path}: cannot be read as {what}: {found}")
    if again := listed_again(header):
        raise UserError(f"{path}: cannot be read as {what}: it has the column {named(again)} more than once.")
    return header, [row for _, row in lines]


def check_image_names(path: Path, images: Sequence[str]) -> None:
    """Raises a UserError unless every row of a table has an image name, and each name stands there once."""
    nameless = [f"row {number:,}" for number, name in enumerate(images, 1) if not name.strip()]
    if nameless:
        raise UserError(f"{path}: {len(nameless):,} rows have no image name ({named(nameless)} below the header).")
    if again := listed_again(images):
        raise UserError(f"{path}: images listed more than once: {len(again):,} ({named(again)}). Keep one row of each.")


def is_image_name(name: str) -> bool:
    """Whether it is a plain file name of a JPEG, which leads out of no folder."""
    return bool(_IMAGE_NAME.fullmatch(name))


def listed_again(names: Sequence[str]) -> list[str]:
    """Those names that are listed more than once, each once, in their order."""
    return [name for name, count in Counter(names).items() if count > 1]


def write_rows(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Writes a CSV file, completely or not at all; lines end with a newline alone."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_text(path, text.getvalue())


def append_checksum(path: Path) -> None:
    """Appends the CRC-32 of its content to a file; readers of .npy and .npz files ignore what follows the arrays."""
    checksum = _crc32(path, path.stat().st_size)
    with path.open("ab") as stream:
        stream.write(checksum)


def is_intact(path: Path) -> bool:
    """Whether a file ends with the checksum that `append_checksum` wrote; an OSError where it cannot be read."""
    size = path.stat().st_size - _CHECKSUM_BYTES
    with path.open("rb") as stream:
        stream.seek(max(size, 0))
        return stream.read() == _crc32(path, size)


def _crc32(path: Path, size: int) -> bytes:
    value = 0
    with path.open("rb") as stream:
        while size > 0 and (part := stream.read(min(size, 1 << 22))):
            value, size = zlib.crc32(part, value), size - len(part)
    return value.to_bytes(_CHECKSUM_BYTES, "little")


def link_or_copy(source: Path, target: Path) -> None:
    """Makes `target` the same file as `source`, or a copy where no link is possible."""
    source = source.resolve()  # of a symbolic link, the file: a link to a link could break when the data moves
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links, or another owner's file
        shutil.copy2(source, target)


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk that `folder` lies on, or will lie on."""
    folder = Path(folder).resolve()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def locked(path: Path, doing: str, wait: bool = False) -> Iterator[None]:
    """Holds a lock, which the system releases when this process ends; another process that wants it prints who has it.

    Args:
        path: the lock file; it is there while the block runs, and after it only if the process was killed.
        doing: what is done under it, such as 'runs/full/folds.csv is being written'.
        wait: for another process to release it, instead of a UserError; after `QUIET_SECONDS` a message says so.
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
    """Takes a lock, to be given to `release`; None where another process has it all the time."""
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
        _report_no_locks()
    with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
        path.write_text(f"process {os.getpid()} on {platform.node()}\n")
    return lock


@functools.cache  # once a process: every fold and cache file takes a lock
def _report_no_locks() -> None:
    say("note: this file system has no locks: do not start the same work there twice.")


def release(lock: "BaseFileLock | None") -> None:
    """Releases a lock and removes its file."""
    if lock is not None:
        with contextlib.suppress(OSError):  # filelock never takes a file without a name, so nobody waits in vain
            Path(lock.lock_file).unlink()
        lock.release()


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock."""
    lock = acquire(path)
    release(lock)
    return lock is None
