"""Downloads the competition's files with Kaggle's own client, and unpacks them into data/.

python -m preprocessing.download
python -m preprocessing.download --archive ~/Downloads/state-farm-distracted-driver-detection.zip

The second form unpacks an archive that was downloaded in a browser. After an interruption, the same command resumes.
The client runs as a process of its own; its errors become messages that say what to do next. Archives are unpacked so
that nothing can leave the folder or fill the disk.
"""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from common import locks
from common.competition import SLUG
from common.errors import UserError, masked, named, run_command
from common.files import folder_written_whole, free_bytes
from common.run_folder import REPOSITORY
from common.settings import CommandLine

GIGABYTE = 10**9
NEEDED_GIGABYTES = 9.0  # about 4 for the archive and 4 unpacked
MOST_BYTES = 12 * 10**9  # unpacked; the competition's own files take about 4 GB
PAGE = f"https://www.kaggle.com/competitions/{SLUG}"
SECRET_FIELDS = ("key", "token", "access_token", "refresh_token")  # of a credential file; the user's name is none
REQUIREMENTS = "requirements/kaggle.txt"
INSTALL = f"Install the client: .venv/bin/python -m pip install -r {REQUIREMENTS}"
LOG_IN = (
    "Get a token at https://www.kaggle.com/settings/api ('Generate New Token') and save it as ~/.kaggle/access_token, "
    "or set KAGGLE_API_TOKEN to it (a kaggle.json, or KAGGLE_USERNAME and KAGGLE_KEY, will do too)"
)
RULES = f"Accept the rules of the competition once, in a browser: {PAGE}/rules"
STEPS = f"What to do:\n  1. {RULES}\n  2. {LOG_IN}\n  3. {INSTALL}\n  4. Start this again."
BROWSER = f"Or download all files in a browser ({PAGE}/data): python -m preprocessing.download --archive THE.zip"


class DamagedArchiveError(UserError):
    """Something is not a complete zip file."""


def download(out: Path, archive: Path | None = None, needed_gigabytes: float = NEEDED_GIGABYTES) -> None:
    """Downloads, if no `archive` is given, and unpacks into `out`, which appears complete or not at all.

    Raises:
        UserError: as `run_client` and `unpack`; `out` has something else in it; too little free space.
    """
    from preprocessing.dataset import missing_parts

    with locks.held(out.parent / f".{out.name}.lock", f"{out} is being filled", wait=True):
        if out.is_dir() and not missing_parts(out):
            print(f"{out}: the data is there already. Check it: python -m preprocessing.check --data {out}")
            return
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(
                f"{out} is there already, with something else in it. Move it away, or choose another --out."
            )
        downloads = out.parent / f".{out.name}.download"
        given = archive
        if archive is None:
            have = sum(path.stat().st_size for path in downloads.glob("*.zip"))
            _require_space(out, needed_gigabytes * GIGABYTE - have)
            archive = _fetch_archive(downloads)
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
                raise UserError(f"{error} It was removed: the same command downloads it again.") from error
            raise
        shutil.rmtree(downloads, ignore_errors=True)
        print(f"{out}: done. Check it: python -m preprocessing.check --data {out}")


def _fetch_archive(folder: Path) -> Path:
    """Has the client download the competition's archive into `folder`, where it resumes what is there in part."""
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


def _require_space(out: Path, needed: float) -> None:
    """Raises a UserError unless the disk of `out` has `needed` bytes free."""
    free = free_bytes(out)
    if free < needed:
        raise UserError(
            f"{out}: expected {needed / GIGABYTE:.1f} GB of free space for the archive and what is in it, "
            f"found {free / GIGABYTE:.1f} GB. Make room, or choose another disk with --out."
        )


def install() -> None:
    """Installs the client into this environment, where it is missing and there are credentials for it.

    Raises:
        UserError: it cannot be installed.
    """
    find = "import importlib.util as util, sys; sys.exit(util.find_spec('kaggle') is None)"
    there = subprocess.run([sys.executable, "-P", "-c", find], check=False).returncode == 0
    if there or not has_credentials():
        return
    print("installing Kaggle's client", file=sys.stderr)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["-c", str(REPOSITORY / "requirements" / "lock.txt"), "-r", str(REPOSITORY / REQUIREMENTS)]
    if subprocess.run(command, check=False).returncode:
        raise UserError(f"Kaggle's client could not be installed (see above). {INSTALL}")


def has_credentials() -> bool:
    """Whether there is anything that the client would try: a token, a key, or a login in a browser."""
    given = [os.environ.get(name) for name in ("KAGGLE_API_TOKEN", "KAGGLE_API_V1_TOKEN_PATH")]
    pair = os.environ.get("KAGGLE_USERNAME") and os.environ.get("KAGGLE_KEY")
    return bool(any(given) or pair) or any(path.is_file() for path in _credential_files())


def _credential_files() -> list[Path]:
    folder = Path.home() / ".kaggle"
    configuration = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "kaggle"
    keys = [
        parent / "kaggle.json"
        for parent in (Path(os.environ.get("KAGGLE_CONFIG_DIR") or folder), folder, configuration)
    ]
    return [*keys, *(folder / name for name in ("access_token", "access_token.txt", "credentials.json"))]


def secrets() -> list[str]:
    """Every text that must not be repeated in a message."""
    found = [os.environ.get(name, "") for name in ("KAGGLE_API_TOKEN", "KAGGLE_KEY")]
    named = [Path(os.environ.get(name, "")) for name in ("KAGGLE_API_TOKEN", "KAGGLE_API_V1_TOKEN_PATH")]
    for path in (*_credential_files(), *named):  # a variable may also name a file with the token
        try:
            text = path.read_text(encoding="utf-8").strip()
            value = json.loads(text) if path.suffix == ".json" else text
            found += (
                [str(value[name]) for name in SECRET_FIELDS if name in value] if isinstance(value, dict) else [text]
            )
        except (OSError, ValueError):
            continue
    return [secret for secret in found if len(secret) > 3]


def run_client(
    *words: str,
    what: str,
    browser: str,
    meanwhile: Callable[[subprocess.Popen], None] = lambda process: None,
    topic: str = "competitions",
) -> str:
    """Has the client do something: `kaggle TOPIC WORDS`.

    Args:
        what: is asked for, for the message where it is refused, such as 'the download'.
        browser: a line that says how a person can do it without the client.
        meanwhile: called with the process, and may wait for it.
        topic: 'competitions', 'datasets' or 'kernels'.

    Returns:
        What it said.

    Raises:
        UserError: no credentials, no client, rules not accepted, no network, or whatever else the client said.
    """
    if not has_credentials():
        raise UserError(f"no Kaggle credentials found.\n{STEPS}\n{browser}")
    # A process of its own: the client exits and prints when merely imported. -P: this repository has a kaggle/ too.
    command = [sys.executable, "-P", "-m", "kaggle", topic, *words]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            meanwhile(process)
            process.wait()
        finally:
            process.terminate()  # does nothing to one that has ended
            process.wait()
        output.seek(0)
        said = output.read().decode("utf-8", "replace")
    if process.returncode != 0:
        raise UserError(_explain(said, what, browser, topic))
    return said


def _explain(said: str, what: str, browser: str, topic: str) -> str:
    """The client's complaint in words that say what to do next."""
    if "No module named" in said:
        return f"the Kaggle client cannot be started: {last_words(said)}\n{INSTALL}\n{browser}"
    if re.search(r"\b403\b", said) and topic != "competitions":
        return f"Kaggle refuses {what} (403): is the user's name your own? {last_words(said)}\n{LOG_IN}\n{browser}"
    if re.search(r"\b403\b", said):
        return f"Kaggle refuses {what} (403), as it does until the rules are accepted.\n{RULES}\n{browser}"
    if re.search(r"\b401\b", said) or "Authentication required" in said or "nvalid credentials" in said:
        return f"Kaggle does not accept these credentials.\n{LOG_IN}\n{browser}"
    if any(words in said for words in ("Max retries exceeded", "NameResolution", "ConnectionError", "timed out")):
        return f"Kaggle cannot be reached: is there a network? {last_words(said)}\nStart the same command again."
    return f"the Kaggle client failed. {last_words(said)}\n{STEPS}\n{browser}"


def last_words(said: str) -> str:
    """The last line that the client said, less what is secret."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    words = f"It said: {lines[-1][:500]}" if lines else "It said nothing."
    return masked(words, *secrets())


def unpacked_bytes(archive: Path) -> int:
    """What the entries of `archive` take unpacked, by its directory.

    Raises:
        DamagedArchiveError (a UserError): not a complete zip file.
        UserError: it cannot be read.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            return sum(entry.file_size for entry in opened.infolist())
    except OSError as error:  # says nothing of what is in it
        raise UserError(f"{archive}: cannot be read: {error.strerror or error}. Fix that, and start again.") from error
    except zipfile.BadZipFile as error:
        raise DamagedArchiveError(f"{archive}: cannot be read as a zip file: {error}. Get it again.") from error


def unpack(archive: Path, folder: Path, most_bytes: int = MOST_BYTES) -> None:
    """Unpacks `archive` into `folder`, and the zip files that it finds in it (imgs.zip, *.csv.zip) in their places.

    Raises:
        UserError: not a complete zip file (a DamagedArchiveError), one that cannot be unpacked here, an entry that
            would leave the folder, or more than `most_bytes` in all.
    """
    left = most_bytes - _unpack_one(archive, folder, most_bytes)
    for inner in sorted(folder.rglob("*.zip")):
        left -= _unpack_one(inner, inner.parent, left)
        inner.unlink()


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
