"""Files are written whole or not at all: a temporary file in the same folder, then a rename."""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import locks
from common.errors import UserError

SEAL = "seal"  # the last key of our JSON files: the SHA-256 of the file with 64 zeros in its place
_SEAL = re.compile(rb'"seal": "([0-9a-f]{64})"\n}\n\Z')
_FRAME = b'"seal": "' + b"0" * 64 + b'"\n}\n'


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
    """Writes `value` as indented JSON, whole or not at all; an object with a seal, by which damage is found."""
    if not isinstance(value, dict):
        write_text(path, json.dumps(value, indent=2) + "\n")
        return
    text = json.dumps({**value, SEAL: "0" * 64}, indent=2) + "\n"
    digest = hashlib.sha256(text.encode()).hexdigest()
    write_text(path, f"{text[: -len(_FRAME)]}{_FRAME.decode().replace('0' * 64, digest)}")


class DamagedRecordError(UserError):
    """A JSON file's bytes are not what was written."""


class UnreadableError(UserError):
    """The disk does not give a file's bytes now; what it holds may be whole."""


def read_json(path: Path) -> Any:
    """Reads a JSON file; one with a seal must be as it was written, and comes without the seal.

    Raises:
        DamagedRecordError (a UserError): the file is not JSON, or its checksum does not fit.
        UnreadableError (a UserError): it is missing, or cannot be read.
    """
    try:
        content = Path(path).read_bytes()
        value = json.loads(content.decode("utf-8"))
    except OSError as error:
        raise UnreadableError(
            f"cannot read {path}: {error}. Expected a JSON file as this program writes it."
        ) from error
    except (ValueError, RecursionError) as error:
        raise DamagedRecordError(
            f"cannot read {path}: {error}. Expected a JSON file as this program writes it."
        ) from error
    if _is_damaged(content):
        raise DamagedRecordError(f"{path} is damaged: its checksum does not fit.")
    if isinstance(value, dict):
        value.pop(SEAL, None)
    return value


def read_record(path: Path) -> dict[str, Any]:
    """Reads a JSON file that holds an object.

    Raises:
        DamagedRecordError, UnreadableError (UserErrors): as `read_json`; damaged is also what holds something else.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise DamagedRecordError(f"cannot read {path}: expected a JSON object, found {type(value).__name__}.")
    return value


def _is_damaged(content: bytes) -> bool:
    """Whether there is a seal that does not fit, or what was one. A file of another hand or version has none."""
    sealed = _SEAL.search(content)
    if sealed:
        plain = content[: sealed.start(1)] + b"0" * 64 + content[sealed.end(1) :]
        return hashlib.sha256(plain).hexdigest() != sealed[1].decode()
    tail = content[-len(_FRAME) :]
    frame = [place for place, expected in enumerate(_FRAME) if expected != ord("0")]
    same = sum(tail[place] == _FRAME[place] for place in frame) if len(tail) == len(_FRAME) else 0
    return same > len(frame) // 2


def link_or_copy(source: Path, target: Path) -> None:
    """Makes `target` the same file as `source`, or a copy where that cannot be."""
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
