"""Builds the bundle of the code for a Kaggle kernel, and pushes it and the kernel with Kaggle's own client.

    kaggle/push.sh USER                                       builds, uploads the dataset, starts the kernel
    kaggle/push.sh USER --continue                            the next version, which goes on with the last one's output
    kaggle/push.sh USER --dry-run                             only builds, into cache/kaggle/
    kaggle/push.sh USER --options="--models resnet50 --time-budget 2h"

The bundle is every file of the last commit that the pipeline needs, stamped with its revision.
"""

import hashlib
import json
import re
import shlex
import subprocess
import zipfile
from pathlib import Path
from typing import Any

from common.competition import SLUG
from common.errors import UserError, named, run_command
from common.files import sha256_of, write_json, write_text, written_whole
from common.run_folder import BUNDLE_MANIFEST, CACHE, REPOSITORY
from common.settings import CommandLine
from preprocessing.download import last_words, run_client, secrets

CODE, WEIGHTS = "statefarm-code", "statefarm-weights"
ARCHIVE = "statefarm_code.zip"
LEFT_OUT = ("tests/", "docs/", "benchmarks/", "kaggle/", ".")  # what a kernel does not need
SECRET_NAMES = re.compile(r"(^|/)(kaggle\.json|access_token.*|credentials.*|\.env.*|id_rsa.*|.*\.(pem|key))$")
EARLIEST = (1980, 1, 1, 0, 0, 0)  # one date for all, so that the same revision gives the same bytes
USER_NAME = re.compile(r"[a-z0-9][a-z0-9-]{2,49}")


def git(*words: str) -> str:
    """The output of a git command in this repository."""
    try:
        command = ["git", "-C", str(REPOSITORY), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(f"expected a git checkout to bundle, but git failed in {REPOSITORY}: {error}") from error


def revision(allow_changes: bool) -> str:
    """The revision of the last commit; where files differ from it, '-changed-' and a checksum of what is bundled.

    Raises:
        UserError: files differ from the last commit, and that is not allowed.
    """
    changed = [line[3:] for line in git("status", "--porcelain").splitlines()]
    if changed and not allow_changes:
        raise UserError(
            f"files differ from the last commit ({named(changed)}), so no revision would stand for the bundle. Commit "
            "them, or push them as they are with --allow-changes (those that git does not know stay out)."
        )
    head = git("rev-parse", "HEAD").strip()
    if not changed:
        return head
    contents = "".join(sha256_of(REPOSITORY / name) for name in bundled_files())
    return f"{head}-changed-{hashlib.sha256(contents.encode()).hexdigest()[:8]}"


def bundled_files() -> list[str]:
    """Paths of the files that git tracks and a kernel needs.

    Raises:
        UserError: one looks like a credential, or holds one of this machine's.
    """
    names = [name for name in git("ls-files").splitlines() if not name.startswith(LEFT_OUT)]
    names = [name for name in names if (REPOSITORY / name).is_file()]
    known = [secret.encode() for secret in secrets()]
    for name in names:
        content = (REPOSITORY / name).read_bytes()
        if SECRET_NAMES.search(name) or any(secret in content for secret in known):
            raise UserError(
                f"{name} looks like it holds a credential, and git tracks it. Take it out of the repository."
            )
    return names


def build_code(user: str, stamp: str, folder: Path) -> Path:
    """Writes the dataset's folder: the archive, and its metadata; returns the archive."""
    names = bundled_files()
    version = {"revision": stamp, "files": names}
    with written_whole(folder / ARCHIVE) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name, EARLIEST), (REPOSITORY / name).read_bytes(), zipfile.ZIP_DEFLATED)
        archive.writestr(
            zipfile.ZipInfo(BUNDLE_MANIFEST, EARLIEST), json.dumps(version, indent=1), zipfile.ZIP_DEFLATED
        )
    write_json(folder / "dataset-metadata.json", dataset_metadata(user, CODE))
    return folder / ARCHIVE


def dataset_metadata(user: str, name: str) -> dict[str, Any]:
    """dataset-metadata.json, as the client wants it."""
    return {"title": name, "id": f"{user}/{name}", "licenses": [{"name": "other"}]}


def build_kernel(user: str, stamp: str, options: str, go_on: bool, folder: Path) -> None:
    """Writes the kernel's folder: its metadata with the user's name, its script with options and revision."""
    template = REPOSITORY / "kaggle"
    metadata = json.loads((template / "kernel-metadata.json").read_text().replace("USER/", f"{user}/"))
    if go_on:
        metadata["kernel_sources"] = [metadata["id"]]
    write_json(folder / "kernel-metadata.json", metadata)
    script = (template / "kernel.py").read_text()
    for name, value in (("OPTIONS", repr(options_of(options))), ("REVISION", repr(stamp))):
        script, count = re.subn(rf"(?m)^{name} = \S.*?(?=  #)", f"{name} = {value}".replace("\\", r"\\"), script)
        if count != 1:
            raise UserError(f"{template / 'kernel.py'}: expected one line '{name} = ...  # ...', found {count}.")
    write_text(folder / "kernel.py", script)


def options_of(text: str) -> list[str]:
    """The words of --options."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"--options {text}: expected words as in a shell, found: {error}.") from None


def publish_dataset(folder: Path, message: str) -> None:
    """Uploads a folder as a new dataset, or as a new version of an existing one."""
    browser = f"Or upload {folder} in a browser: https://www.kaggle.com/datasets?new=true"
    for words in (("create",), ("version", "-m", message)):
        said = run_client(*words, "-q", "-p", str(folder), what="the upload", browser=browser, topic="datasets")
        if "already in use" not in said:  # as it says before it uploads anything
            break
    if "error" in said.lower():  # the client exits with 0 all the same
        raise UserError(f"Kaggle did not take the dataset. {last_words(said)}\n{browser}")


def push_kernel(folder: Path) -> str:
    """Starts a version of the kernel; returns what Kaggle says, which has its address."""
    browser = (
        f"Or make one in a browser (https://www.kaggle.com/code), of {folder}/kernel.py, with the inputs beside it."
    )
    said = run_client("push", "-p", str(folder), what="the kernel", browser=browser, topic="kernels")
    if "error" in said.lower() or "not valid" in said:
        raise UserError(
            f"Kaggle did not take the kernel as it is. {last_words(said)}\nExpected: the rules of {SLUG} accepted, and "
            f"the datasets there. Weights: kaggle/pack_weights.sh USER"
        )
    return said.strip()


def checked_user(name: str) -> str:
    """The user name, if it can be one at Kaggle."""
    if not USER_NAME.fullmatch(name):
        raise UserError(
            f"{name!r}: expected your user name as in https://www.kaggle.com/NAME: small letters, digits, '-'."
        )
    return name


def main() -> None:
    parser = CommandLine(prog="kaggle/push.sh", description=__doc__)
    parser.add_argument("user", metavar="USER", help="your name at Kaggle")
    parser.add_argument("--dry-run", action="store_true", help="only build")
    parser.add_argument("--continue", dest="go_on", action="store_true", help="attach the last version's output")
    parser.add_argument("--allow-changes", action="store_true", help="bundle files that differ from the last commit")
    parser.add_argument(
        "--options",
        default="--time-budget 8h30m",
        metavar="TEXT",
        help='of run_all.sh, as --options="..." [--time-budget 8h30m]',
    )
    parser.add_argument(
        "--out", type=Path, default=CACHE / "kaggle", metavar="DIR", help="where they are built [cache/kaggle]"
    )
    arguments = parser.parse_args()
    user = checked_user(arguments.user)
    options_of(arguments.options)
    stamp = revision(arguments.allow_changes)
    archive = build_code(user, stamp, arguments.out / "code")
    build_kernel(user, stamp, arguments.options, arguments.go_on, arguments.out / "kernel")
    print(f"{archive}: revision {stamp}, {archive.stat().st_size / 1e6:.1f} MB\n{arguments.out / 'kernel'}: the kernel")
    if arguments.dry_run:
        print("nothing was pushed (--dry-run)")
        return
    publish_dataset(arguments.out / "code", stamp)
    print(push_kernel(arguments.out / "kernel"))


if __name__ == "__main__":
    run_command(main)
