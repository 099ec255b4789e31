"""The outputs of a finished piece, held against the checksums in its finished.json before they are used.

A piece in which something is damaged is no longer taken for finished: its finished.json becomes damaged.json, so the
command that trained it makes it again, and nothing else.
"""

import contextlib
import errno
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import DamagedRecordError, UnreadableError, read_record, sha256_of

FINISHED, DAMAGED, FAILED = "finished.json", "damaged.json", "failed.json"
CONFIGURATION = "config.json"


def recorded_sha256(path: Path) -> str | None:
    """What an output's SHA-256 was when its piece was finished; None where nothing tells.

    Raises:
        UserError: finished.json is there, but damaged, or cannot be read.
    """
    record = path.parent / FINISHED
    if not record.is_file():
        return None
    sums = _finished_record(path.parent).get("sha256", {})
    found = sums.get(path.name) if isinstance(sums, dict) else None
    return found if isinstance(found, str) else None


def require_whole(path: Path, sha256: str | None = None) -> Path:
    """Returns the path of an output if it is as it was when its piece was finished.

    Args:
        sha256: of its content, where that is known already.

    Raises:
        UserError: it is damaged, or finished.json is.
    """
    recorded = recorded_sha256(path)
    if recorded is not None and path.is_file() and (sha256 or sha256_of(path)) != recorded:
        raise UserError(f"{path} is damaged: its checksum is not that of finished.json. {set_aside(path.parent)}")
    return path


def damaged_outputs(folder: Path) -> list[str]:
    """Names of those outputs of a finished piece that are damaged or missing; finished.json where that itself is.

    Raises:
        UnreadableError (a UserError): finished.json may be whole, but cannot be read now.
    """
    try:
        sums = _finished_record(folder).get("sha256", {})
    except DamagedRecordError:
        return [FINISHED]
    sums = sums if isinstance(sums, dict) else {}
    there = {path.name for path in folder.iterdir() if path.is_file()}  # a damaged record may name anything
    return [name for name, recorded in sums.items() if name not in there or _sha256_if_read(folder / name) != recorded]


def _sha256_if_read(path: Path) -> str | None:
    try:
        return sha256_of(path)
    except OSError as error:
        if error.errno != errno.EIO:  # which alone says that the content is lost
            raise
        return None


def trained_on_other_folds(folder: Path, folds_sha256: str) -> bool:
    """Whether a fold run's config.json was written with another fold table than the one of this SHA-256.

    Raises:
        UnreadableError (a UserError): config.json is there, but cannot be read now.
    """
    try:
        record = record_of_piece(folder, CONFIGURATION) if (folder / CONFIGURATION).is_file() else {}
    except DamagedRecordError:  # its settings are not known
        return False
    settings = record.get("settings")
    recorded = settings.get("folds_sha256") if isinstance(settings, dict) else None
    return recorded is not None and recorded != folds_sha256


def why_it_failed(folder: Path) -> str:
    """What happened to a piece that was given up; empty where nothing tells."""
    try:
        return str(read_record(folder / FAILED).get("what", "")) if (folder / FAILED).is_file() else ""
    except UserError:
        return ""


def set_aside(folder: Path) -> str:
    """Takes a piece for unfinished from now on; returns a sentence that says so."""
    with contextlib.suppress(OSError):
        (folder / FINISHED).replace(folder / DAMAGED)
        return f"{folder} no longer counts as finished: the command that trained it makes it again, and nothing else."
    return f"Delete {folder / FINISHED}: then the command that trained it makes it again, and nothing else."


def record_of_piece(folder: Path, name: str) -> dict[str, Any]:
    """Reads the config.json or finished.json of a piece.

    Raises:
        DamagedRecordError (a UserError): it is damaged.
        UnreadableError (a UserError): it may be whole, but cannot be read now; says what can be done.
    """
    try:
        return read_record(folder / name)
    except UnreadableError as error:
        raise UnreadableError(f"{error} Start again, or delete {folder} to have it made anew.") from error


def _finished_record(folder: Path) -> dict[str, Any]:
    try:
        return record_of_piece(folder, FINISHED)
    except DamagedRecordError as error:
        raise DamagedRecordError(f"{error} {set_aside(folder)}") from error
