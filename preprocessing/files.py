"""Files are written whole or not at all: a temporary file in the same folder, then a rename."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from preprocessing import locks
from preprocessing.errors import UserError


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; when the block ends without an error it becomes `path`.

    The temporary file keeps the suffix of `path`, which some writers insist on.

    Raises:
        UserError: the folder cannot be written to, or the disk is full.
    """
    path = Path(path)

    def make(beginning: str) -> str:
        descriptor, name = tempfile.mkstemp(prefix=beginning, suffix=path.suffix, dir=path.parent)
        os.close(descriptor)
        return name

    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locks.temporary(path.parent, path.name, make) as temporary:
            yield temporary
            temporary.chmod(0o666 & ~_umask())
            with temporary.open("rb+") as stream:
                os.fsync(stream.fileno())
            temporary.replace(path)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}. Expected a folder that can be written to, with free "
            "space; mend it or choose another, and start the same command again."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text to `path`, whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON to `path`, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}. Expected a JSON file as this program writes it.") from error


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
