"""Zip archives from elsewhere, unpacked so that nothing can leave the folder or fill the disk."""

import re
import shutil
import stat
import zipfile
import zlib
from pathlib import Path

from common.errors import UserError, named

MOST_BYTES = 12 * 10**9  # unpacked; the competition's own files take about 4 GB


class DamagedArchiveError(UserError):
    """Something is no whole zip file."""


def unpack(archive: Path, folder: Path, most_bytes: int = MOST_BYTES) -> None:
    """Unpacks `archive` into `folder`, and the zip files that it finds in it (imgs.zip, *.csv.zip) in their places.

    Raises:
        UserError: not a whole zip file (a DamagedArchiveError), one that cannot be unpacked here, an entry that would
            leave the folder, or more than `most_bytes` in all.
    """
    left = most_bytes - _unpack_one(archive, folder, most_bytes)
    for inner in sorted(folder.rglob("*.zip")):
        left -= _unpack_one(inner, inner.parent, left)
        inner.unlink()


def unpacked_bytes(archive: Path) -> int:
    """What the entries of `archive` say that they take unpacked.

    Raises:
        DamagedArchiveError (a UserError): not a whole zip file.
        UserError: it cannot be read.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            return sum(entry.file_size for entry in opened.infolist())
    except OSError as error:  # says nothing of what is in it
        raise UserError(f"{archive}: cannot be read: {error.strerror or error}. Mend that, and start again.") from error
    except zipfile.BadZipFile as error:
        raise DamagedArchiveError(f"{archive}: cannot be read as a zip file: {error}. Get it again.") from error


def _unpack_one(archive: Path, folder: Path, most_bytes: int) -> int:
    """Unpacks one archive; returns the bytes written."""
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = opened.infolist()
            outside = [repr(entry.filename) for entry in entries if not _stays_inside(entry)]
            if outside:
                raise UserError(f"{archive.name}: entries that would leave the folder: {named(outside)}.")
            total = sum(entry.file_size for entry in entries)
            if total > most_bytes:
                raise UserError(f"{archive.name}: would take {total:,} bytes, at most {most_bytes:,} are expected.")
            for entry in entries:
                target = folder / entry.filename
                if entry.is_dir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                # zipfile reads no more of an entry than the size it declares, so the bound above holds.
                with opened.open(entry) as source, target.open("xb") as stream:
                    shutil.copyfileobj(source, stream, 1 << 20)
            return total
    except FileExistsError as error:
        raise UserError(f"{archive.name}: has a file twice: {error.filename}.") from error
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DamagedArchiveError(f"{archive.name}: cannot be read as a zip file: {error}. Get it again.") from error
    except (NotImplementedError, RuntimeError) as error:  # whole, but encrypted or packed in a rare way
        raise UserError(
            f"{archive.name}: cannot be unpacked here: {error}. Unpack it with another tool, then name the "
            "folder with --data."
        ) from error


def _stays_inside(entry: zipfile.ZipInfo) -> bool:
    """A relative path of plain parts, and a file or a folder: no link, no device."""
    name = entry.filename
    kind = stat.S_IFMT(entry.external_attr >> 16)
    plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)
    parts = name.rstrip("/").split("/")
    return plain and not re.search(r"[\\:\x00]", name) and all(part not in ("", ".", "..") for part in parts)
