"""Downloads the competition's files with Kaggle's own client, and unpacks them into data/.

python -m preprocessing.download
python -m preprocessing.download --archive ~/Downloads/state-farm-distracted-driver-detection.zip

The second form unpacks an archive that was downloaded in a browser. Broken off, the same command goes on where it was.
"""

import shutil
import subprocess
import sys
import time
from pathlib import Path

from common.competition import SLUG
from common.errors import UserError, named, run_command
from common.files import free_bytes
from common.run_folder import REPOSITORY
from common.settings import CommandLine
from preprocessing.kaggle_client import PAGE, last_words, run_client

GIGABYTE = 10**9
NEEDED_GIGABYTES = 9.0  # about 4 for the archive and 4 unpacked
BROWSER = f"Or download all files in a browser ({PAGE}/data): python -m preprocessing.download --archive THE.zip"


def fetch_archive(folder: Path) -> Path:
    """Has the client download the competition's archive into `folder`; one broken off there before goes on.

    Returns:
        The archive.

    Raises:
        UserError: no credentials, no client, rules not accepted, no network, or whatever else the client said.
    """
    folder.mkdir(parents=True, exist_ok=True)
    words = ("download", "-q", "-c", SLUG, "-p", str(folder))
    try:
        said = run_client(
            *words, what="the download", browser=BROWSER, meanwhile=lambda process: _show_growth(process, folder)
        )
    finally:
        if not any(folder.iterdir()):
            folder.rmdir()
    archives = sorted(folder.glob("*.zip"))
    if not archives:
        raise UserError(f"the Kaggle client ended without an archive in {folder}. {last_words(said)}")
    return archives[0]


def _show_growth(process: subprocess.Popen, folder: Path) -> None:
    """Waits for the client, showing how much has arrived."""
    from tqdm import tqdm

    interval = 0.5 if sys.stderr.isatty() else 30  # seconds; a log file wants few lines
    with tqdm(desc="downloading", unit="B", unit_scale=True, unit_divisor=1000, mininterval=interval) as bar:
        while process.poll() is None:
            time.sleep(0.1)
            arrived = sum(path.stat().st_size for path in folder.glob("*.zip"))
            bar.update(arrived - bar.n)


def download(out: Path, archive: Path | None = None, needed_gigabytes: float = NEEDED_GIGABYTES) -> None:
    """Downloads, if no `archive` is given, and unpacks into `out`, which appears whole or not at all.

    Raises:
        UserError: as `fetch_archive` and `unpack`; `out` has something else in it; too little free space.
    """
    from common import locks

    if _is_there(out):
        return
    with locks.held(out.parent / f".{out.name}.lock", f"{out} is being filled", wait=True):
        if not _is_there(out):
            _download(out, archive, needed_gigabytes)


def _is_there(out: Path) -> bool:
    from preprocessing.dataset import missing_parts

    if not out.is_dir() or missing_parts(out):
        return False
    print(f"{out}: the data is there already. Check it: python -m preprocessing.check --data {out}")
    return True


def _download(out: Path, archive: Path | None, needed_gigabytes: float) -> None:
    from common.files import folder_written_whole
    from preprocessing.dataset import missing_parts
    from preprocessing.unpack import DamagedArchiveError, unpack, unpacked_bytes

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already, with something else in it. Move it away, or choose another --out.")
    downloads = out.parent / f".{out.name}.download"
    given = archive
    if archive is None:
        have = sum(path.stat().st_size for path in downloads.glob("*.zip"))
        _require_space(out, needed_gigabytes * GIGABYTE - have)
        archive = fetch_archive(downloads)
    elif not archive.is_file():
        raise UserError(f"--archive {archive}: no such file.")
    try:
        _require_space(out, unpacked_bytes(archive))
        print(f"unpacking {archive.name} into {out}", file=sys.stderr)
        with folder_written_whole(out) as folder:
            unpack(archive, folder)
            missing = missing_parts(folder)
            if missing:
                raise UserError(f"{archive} is not the competition's archive: it has no {named(missing, 4)}.")
    except DamagedArchiveError as error:
        if given is None:  # the client would take it for finished
            archive.unlink(missing_ok=True)
            raise UserError(f"{error} It was removed: the same command downloads it anew.") from error
        raise
    shutil.rmtree(downloads, ignore_errors=True)
    print(f"{out}: done. Check it: python -m preprocessing.check --data {out}")


def _require_space(out: Path, needed: float) -> None:
    """Raises a UserError unless the disk of `out` has `needed` bytes free."""
    free = free_bytes(out)
    if free < needed:
        raise UserError(
            f"{out}: expected {needed / GIGABYTE:.1f} GB of free space for the archive and what is in it, "
            f"found {free / GIGABYTE:.1f} GB. Make room, or choose another disk with --out."
        )


def main() -> None:
    """python -m preprocessing.download"""
    parser = CommandLine(prog="python -m preprocessing.download", description=__doc__)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "data", metavar="DIR", help="the new folder [data]")
    parser.add_argument("--archive", type=Path, metavar="ZIP", help="unpack this one instead of downloading")
    parser.add_argument(
        "--free-space",
        type=float,
        default=NEEDED_GIGABYTES,
        metavar="GB",
        help=f"needed free space [{NEEDED_GIGABYTES}]",
    )
    arguments = parser.parse_args()
    archive = arguments.archive.expanduser() if arguments.archive else None
    download(arguments.out.expanduser(), archive, arguments.free_space)


if __name__ == "__main__":
    run_command(main)
