"""Downloads the competition's files with Kaggle's own client, and unpacks them into data/.

python -m preprocessing.download
python -m preprocessing.download --archive ~/Downloads/state-farm-distracted-driver-detection.zip

The second form unpacks an archive that was downloaded in a browser. After an interruption, the same command resumes.
The client runs as a process of its own; its errors become messages that say what to do next.
"""

import contextlib
import shutil
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from common.competition import SLUG
from common.errors import UserError, is_watched, named, run_command
from common.files import folder_written_whole, free_bytes, locked
from common.kaggle_client import PAGE, run_client
from common.run_folder import REPOSITORY
from common.settings import CommandLine
from preprocessing.dataset import missing_parts

GIGABYTE = 10**9
NEEDED_GIGABYTES = 9.0  # about 4 for the archive and 4 unpacked
BROWSER = f"Or download all files in a browser ({PAGE}/data): python -m preprocessing.download --archive THE.zip"


class DamagedArchiveError(UserError):
    """Something is not a complete zip file."""


def download(out: Path, archive: Path | None = None) -> None:
    """Downloads, if no `archive` is given, and unpacks into `out`, which appears complete or not at all."""
    out = out.resolve() if out.is_symlink() else out  # the archive, too, goes to where the link leads
    with locked(out.parent / f".{out.name}.lock", f"{out} is being filled", wait=True):
        if out.is_dir() and not missing_parts(out):
            print(f"{out}: the data is there already. Check it: python -m preprocessing.check --data {out}")
            return
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(
                f"{out} is there already, with something else in it. Move it away, or choose another --out."
            )
        downloads = out.parent / f".{out.name}.download"
        if archive is not None and not archive.is_file():
            raise UserError(f"--archive {archive}: no such file.")
        found = archive or _fetch_archive(downloads, out)
        try:
            _require_space(out, unpacked_bytes(found))
            print(f"unpacking {found.name} into {out}", file=sys.stderr)
            with folder_written_whole(out) as folder:
                unpack(found, folder)
                if missing := missing_parts(folder):
                    raise UserError(f"{found} is not the competition's archive: it has no {named(missing, 4)}.")
        except DamagedArchiveError as error:
            if archive is not None:
                raise
            found.unlink(missing_ok=True)  # the client would take it for finished
            raise UserError(f"{error} It was removed: the same command downloads it again.") from error
        shutil.rmtree(downloads, ignore_errors=True)
        print(f"{out}: done. Check it: python -m preprocessing.check --data {out}")


def _fetch_archive(folder: Path, out: Path) -> Path:
    """Has the client download the competition's archive into `folder`, where it resumes what is there in part."""
    _require_space(out, NEEDED_GIGABYTES * GIGABYTE - sum(path.stat().st_size for path in folder.glob("*.zip")))
    folder.mkdir(parents=True, exist_ok=True)
    words = ("competitions", "download", *(() if is_watched() else ("-q",)), SLUG, "-p", str(folder))
    try:
        run_client(*words, browser=BROWSER, show=is_watched())  # the client has a progress bar of its own
    finally:
        if not any(folder.iterdir()):
            folder.rmdir()
    archives = sorted(folder.glob("*.zip"))
    if not archives:
        raise UserError(f"Kaggle's client ended without an archive in {folder}. {BROWSER}")
    return archives[0]


def _require_space(out: Path, needed: float) -> None:
    """Raises a UserError unless the disk of `out` has `needed` bytes free."""
    free = free_bytes(out)
    if free < needed:
        raise UserError(
            f"{out}: expected {needed / GIGABYTE:.1f} GB of free space for the archive and what is in it, "
            f"found {free / GIGABYTE:.1f} GB. Make room, or choose another disk with --out."
        )


@contextlib.contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(archive) as opened:
            yield opened
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DamagedArchiveError(
            f"{archive}: cannot be read as a zip file: {error}. Get it again; or unpack it with another tool, and name "
            "the folder with --data."
        ) from error


def unpacked_bytes(archive: Path) -> int:
    """What the entries of `archive` take unpacked, by its directory; a UserError where it is no complete zip file."""
    with _opened(archive) as opened:
        return sum(entry.file_size for entry in opened.infolist())


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks `archive` into `folder`, never outside of it, and the zip files in it (imgs.zip, *.csv.zip) in place."""
    with _opened(archive) as opened:
        opened.extractall(folder)
    for inner in sorted(folder.rglob("*.zip")):
        with _opened(inner) as opened:
            opened.extractall(inner.parent)
        inner.unlink()


def main() -> None:
    parser = CommandLine(prog="python -m preprocessing.download", description=__doc__)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "data", metavar="DIR", help="the new folder [data]")
    parser.add_argument("--archive", type=Path, metavar="ZIP", help="unpack this one instead of downloading")
    arguments = parser.parse_args()
    download(arguments.out.expanduser(), arguments.archive.expanduser() if arguments.archive else None)


if __name__ == "__main__":
    run_command(main)
