"""Downloads the competition's files with Kaggle's own client, and unpacks them into data/.

python -m preprocessing.download
python -m preprocessing.download --archive ~/Downloads/state-farm-distracted-driver-detection.zip

The second form unpacks an archive that was downloaded in a browser. Broken off, the same command goes on where it was.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from preprocessing.competition import SLUG
from preprocessing.errors import UserError, named, run_command
from preprocessing.files import free_bytes
from preprocessing.run_folder import REPOSITORY
from preprocessing.settings import CommandLine

PAGE = f"https://www.kaggle.com/competitions/{SLUG}"
GIGABYTE = 10**9
NEEDED_GIGABYTES = 9.0  # about 4 for the archive and 4 unpacked

INSTALL = "Install the client: .venv/bin/pip install -r requirements-kaggle.txt"
LOG_IN = (
    "Get a token at https://www.kaggle.com/settings/api ('Generate New Token') and save it as ~/.kaggle/access_token, "
    "or set KAGGLE_API_TOKEN to it (a kaggle.json, or KAGGLE_USERNAME and KAGGLE_KEY, will do too)"
)
RULES = f"Accept the rules of the competition once, in a browser: {PAGE}/rules"
BROWSER = f"Or download all files in a browser ({PAGE}/data): python -m preprocessing.download --archive THE.zip"
STEPS = f"What to do:\n  1. {RULES}\n  2. {LOG_IN}\n  3. {INSTALL}\n  4. Start this again.\n{BROWSER}"


def has_credentials() -> bool:
    """Whether there is anything that the client would try: a token, a key, or a login in a browser."""
    environment = os.environ
    if environment.get("KAGGLE_API_TOKEN") or environment.get("KAGGLE_API_V1_TOKEN_PATH"):
        return True
    if environment.get("KAGGLE_USERNAME") and environment.get("KAGGLE_KEY"):
        return True
    return any(path.is_file() for path in _credential_files())


def _credential_files() -> list[Path]:
    folder = Path.home() / ".kaggle"
    configuration = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "kaggle"
    folders = [Path(os.environ["KAGGLE_CONFIG_DIR"])] if os.environ.get("KAGGLE_CONFIG_DIR") else []
    keys = [parent / "kaggle.json" for parent in (*folders, folder, configuration)]
    return [*keys, *(folder / name for name in ("access_token", "access_token.txt", "credentials.json"))]


def _secrets() -> list[str]:
    """Every text that must not be repeated in a message."""
    found = [os.environ.get(name, "") for name in ("KAGGLE_API_TOKEN", "KAGGLE_KEY")]
    for path in (*_credential_files(), Path(found[0])):  # the variable may also name a file with the token
        try:
            text = path.read_text(encoding="utf-8").strip()
            value = json.loads(text) if path.suffix == ".json" else text
            found += [str(part) for part in value.values()] if isinstance(value, dict) else [str(value)]
        except (OSError, ValueError):
            continue
    return [secret for secret in found if len(secret) > 3]


def fetch_archive(folder: Path) -> Path:
    """Has the client download the competition's archive into `folder`; one broken off there before goes on.

    Returns:
        The archive.

    Raises:
        UserError: no credentials, no client, rules not accepted, no network, or whatever else the client said.
    """
    if not has_credentials():
        raise UserError(f"no Kaggle credentials found.\n{STEPS}")
    folder.mkdir(parents=True, exist_ok=True)
    # A process of its own: the client exits and prints when merely imported. -P: this repository has a kaggle/ too.
    command = [sys.executable, "-P", "-m", "kaggle", "competitions", "download", "-q", "-c", SLUG, "-p", str(folder)]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            _show_growth(process, folder)
        finally:
            process.terminate()  # does nothing to one that has ended
            process.wait()
        output.seek(0)
        said = output.read().decode("utf-8", "replace")
    if process.returncode != 0:
        if not any(folder.iterdir()):
            folder.rmdir()
        raise UserError(_explain(said))
    archives = sorted(folder.glob("*.zip"))
    if not archives:
        raise UserError(f"the Kaggle client ended without an archive in {folder}. {_last_words(said)}")
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


def _explain(said: str) -> str:
    """The client's complaint in words that say what to do next."""
    if "No module named" in said:
        return f"the Kaggle client cannot be started: {_last_words(said)}\n{INSTALL}\n{BROWSER}"
    if re.search(r"\b403\b", said):
        return f"Kaggle refuses the download (403), as it does until the rules are accepted.\n{RULES}\n{BROWSER}"
    if re.search(r"\b401\b", said) or "Authentication required" in said or "nvalid credentials" in said:
        return f"Kaggle does not accept these credentials.\n{LOG_IN}\n{BROWSER}"
    if any(words in said for words in ("Max retries exceeded", "NameResolution", "ConnectionError", "timed out")):
        return f"Kaggle cannot be reached: is there a network? {_last_words(said)}\nStart the same command again."
    return f"the Kaggle client failed. {_last_words(said)}\n{STEPS}"


def _last_words(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    words = f"It said: {lines[-1][:500]}" if lines else "It said nothing."
    for secret in _secrets():
        words = words.replace(secret, "***")
    return words


def download(out: Path, archive: Path | None = None, needed_gigabytes: float = NEEDED_GIGABYTES) -> None:
    """Downloads, if no `archive` is given, and unpacks into `out`, which appears whole or not at all.

    Raises:
        UserError: as `fetch_archive` and `unpack`; `out` has something else in it; too little free space.
    """
    from preprocessing.dataset import missing_parts
    from preprocessing.folders import folder_written_whole
    from preprocessing.unpack import unpack, unpacked_bytes

    if out.is_dir() and not missing_parts(out):
        print(f"{out}: the data is there already. Check it: python -m preprocessing.check --data {out}")
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already, with something else in it. Move it away, or choose another --out.")
    downloads = out.parent / f".{out.name}.download"
    if archive is None:
        have = sum(path.stat().st_size for path in downloads.glob("*.zip"))
        _require_space(out, needed_gigabytes * GIGABYTE - have)
        archive = fetch_archive(downloads)
    elif not archive.is_file():
        raise UserError(f"--archive {archive}: no such file.")
    _require_space(out, unpacked_bytes(archive))
    print(f"unpacking {archive.name} into {out}", file=sys.stderr)
    with folder_written_whole(out) as folder:
        unpack(archive, folder)
        missing = missing_parts(folder)
        if missing:
            raise UserError(f"{archive} is not the competition's archive: it has no {named(missing, 4)}.")
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
        "--free-space", type=float, default=NEEDED_GIGABYTES, metavar="GB", help=f"needed to start [{NEEDED_GIGABYTES}]"
    )
    arguments = parser.parse_args()
    archive = arguments.archive.expanduser() if arguments.archive else None
    download(arguments.out.expanduser(), archive, arguments.free_space)


if __name__ == "__main__":
    run_command(main)
