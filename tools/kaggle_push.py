"""Pushes the pipeline to Kaggle as a kernel, and Keras's weights as a dataset, with Kaggle's own client.

    kaggle/push.sh USER                                the last commit as a kernel, which starts
    kaggle/push.sh USER --continue                     the next version resumes what the last one left
    kaggle/push.sh USER --wait                         follows its log to the end and downloads its output
    kaggle/push.sh USER --submit                       the same, and submits the result
    kaggle/push.sh USER --dry-run                      only builds, into cache/kaggle/
    kaggle/push.sh USER --options="--models resnet50 --time-budget 2h"

The kernel carries the code: every file of the last commit that it needs, stamped with the revision.
"""

import base64
import hashlib
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Collection
from pathlib import Path

from common.competition import SAMPLE_SUBMISSION, SLUG
from common.errors import UserError, named, run_command
from common.files import sha256_of, write_json, write_text, written_whole
from common.kaggle_client import PAGE, last_words, run_client, secrets
from common.run_folder import BUNDLE_MANIFEST, CACHE, REPOSITORY, SUBMISSIONS
from common.settings import CommandLine, names_in, nearest
from models.finetuning import architecture as zoo
from models.finetuning import runtime
from models.finetuning.architecture import Architecture
from models.finetuning.network import weights as pretrained
from pipeline.presets import DEFAULT_MODELS
from pipeline.resources import GPUS

WEIGHTS = "statefarm-weights"  # the user's dataset
LEFT_OUT = ("tests/", "docs/", "benchmarks/", "kaggle/", ".")  # what a kernel does not need
SECRET_NAMES = re.compile(r"(^|/)(kaggle\.json|access_token.*|credentials.*|\.env.*|id_rsa.*|.*\.(pem|key))$")
LARGEST_SOURCE = 1_000_000  # bytes that Kaggle takes as the source of a kernel
USER_NAME = re.compile(r"[a-z0-9][a-z0-9-]{2,49}")
DATASET = re.compile(r"[\w-]+/[\w-]+")
MODEL = re.compile(r"[\w-]+/[\w-]+/[\w-]+/[\w.-]+/[0-9]+")  # OWNER/MODEL/keras/VARIATION/VERSION
ASK_EVERY = 15.0  # seconds
ATTEMPTS = 20  # to get an answer
NOT_STARTED, ENDED = ("queued", "new_script"), ("complete", "error", "cancel_acknowledged")  # states of a kernel
SMALL_OUTPUTS = r"^(?!.*\.(keras|npy|npz)$)"  # all but the networks and features, which take GB


def git(*words: str) -> str:
    """The output of a git command in this repository."""
    try:
        command = ["git", "-C", str(REPOSITORY), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(f"expected a git checkout to push, but git failed in {REPOSITORY}: {error}") from error


def revision(allow_changes: bool) -> str:
    """The revision of the last commit; where files differ from it, '-changed-' and a checksum of what is pushed.

    Raises:
        UserError: files differ from the last commit, and that is not allowed.
    """
    changed = [line[3:] for line in git("status", "--porcelain").splitlines()]
    if changed and not allow_changes:
        raise UserError(
            f"files differ from the last commit ({named(changed)}), so no revision would name what is pushed. Commit "
            "them, or push them as they are with --allow-changes (files that git does not track stay out)."
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
            raise UserError(f"{name} looks like a credential, and git tracks it. Take it out of the repository.")
    return names


def packed_code(stamp: str) -> str:
    """The code and its revision, as `CODE` of kernel.py; the same bytes for the same files."""
    content = {name: (REPOSITORY / name).read_bytes() for name in bundled_files()}
    content[BUNDLE_MANIFEST] = json.dumps({"revision": stamp}).encode()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as archive:
        for name, data in content.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return base64.encodebytes(buffer.getvalue()).decode()


def build_kernel(
    user: str, stamp: str, options: str, folder: Path, go_on: bool = False, gpu: str = "", sources: Collection[str] = ()
) -> dict:
    """Writes the kernel's folder: its script with options and code, and its metadata, which is returned.

    Args:
        go_on: attach the last version's output.
        gpu: Kaggle's name of an accelerator; '' is the one in kaggle/kernel-metadata.json.
        sources: datasets and models that hold weights, instead of the user's own dataset.

    Raises:
        UserError: a source is no name of a dataset or model, or the code is too large.
    """
    template = REPOSITORY / "kaggle"
    metadata = json.loads((template / "kernel-metadata.json").read_text().replace("USER/", f"{user}/"))
    if go_on:
        metadata["kernel_sources"] = [metadata["id"]]
    metadata["machine_shape"] = gpu or metadata["machine_shape"]
    if sources:
        metadata["dataset_sources"] = [name for name in sources if DATASET.fullmatch(name)]
        metadata["model_sources"] = [name for name in sources if MODEL.fullmatch(name)]
    strange = set(sources) - {*metadata["dataset_sources"], *metadata["model_sources"]}
    if strange:
        raise UserError(
            f"--weights-from {' '.join(sorted(strange))}: expected OWNER/DATASET, or "
            "OWNER/MODEL/keras/VARIATION/VERSION, as in the address of its page at Kaggle."
        )
    script = (template / "kernel.py").read_text()
    for name, value in (("OPTIONS", repr(words_of(options))), ("CODE", f'"""\n{packed_code(stamp)}"""')):
        line = next(line for line in script.splitlines() if line.startswith(f"{name} = "))
        script = script.replace(line, f"{name} = {value}")
    if len(script) > LARGEST_SOURCE:
        raise UserError(f"the code takes {len(script):,} bytes, and Kaggle takes kernels of {LARGEST_SOURCE:,}.")
    write_json(folder / "kernel-metadata.json", metadata)
    write_text(folder / "kernel.py", script)
    return metadata


def words_of(text: str) -> list[str]:
    """The words of --options."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"--options {text}: expected words as in a shell, found: {error}.") from None


def push_kernel(folder: Path) -> str:
    """Starts a version of the kernel; returns what Kaggle answers, which has its address."""
    browser = f"Or make a notebook in a browser (https://www.kaggle.com/code), of the script {folder}/kernel.py."
    answer = run_client("kernels", "push", "-p", str(folder), what="the kernel", browser=browser)
    if "push error" in answer or "not valid" in answer:
        raise UserError(
            f"Kaggle did not take the kernel as it is. {last_words(answer)}\nExpected: the rules of {SLUG} accepted, "
            "and the datasets there. Weights: kaggle/pack_weights.sh USER, or --weights-from a public dataset."
        )
    return answer.strip()


def wait_for_dataset(reference: str) -> None:
    """Waits until Kaggle has processed the last version of a dataset."""
    browser = f"Its page: https://www.kaggle.com/datasets/{reference}"
    known = ""
    while True:
        answer = run_client("datasets", "status", reference, what=f"the dataset {reference}", browser=browser)
        status = answer.split()[-1] if answer.split() else "unknown"
        if status == "ready":
            return
        if status in ("failed", "deleted"):
            raise UserError(f"the dataset {reference} is {status} at Kaggle. Upload it again. {browser}")
        if status != known:
            print(f"{reference}: {status}; waiting until it is ready", flush=True)
        known = status
        time.sleep(ASK_EVERY)


def follow(kernel: str, folder: Path) -> None:
    """Shows the log of a kernel as it runs, and downloads what it leaves, but for networks and features.

    Args:
        kernel: USER/NAME/VERSION.

    Raises:
        UserError: it failed or was cancelled.
    """
    browser = f"Its page: https://www.kaggle.com/code/{'/'.join(kernel.split('/')[:2])}"
    if state_of(kernel, browser) in NOT_STARTED:
        print(f"{kernel}: queued", flush=True)
    while state_of(kernel, browser) in NOT_STARTED:
        time.sleep(ASK_EVERY)
    run_client("kernels", "logs", "-f", kernel, what="the log", browser=browser, show=True)
    while (state := state_of(kernel, browser)) not in ENDED:
        time.sleep(ASK_EVERY)
    if state != "complete":
        raise UserError(
            f"the kernel ended as {state!r}; its log is above. What it finished is kept at Kaggle: push again with "
            f"--continue. {browser}"
        )
    words = ("kernels", "output", "-q", "-o", kernel, "-p", str(folder), "--file-pattern", SMALL_OUTPUTS)
    run_client(*words, what="the output", browser=browser)
    print(f"{folder}: the output, but for networks and features: .venv/bin/kaggle kernels output {kernel}")


def state_of(kernel: str, browser: str) -> str:
    """The state of a version of a kernel, such as 'running'. It is asked for hours, so Kaggle may fail once."""
    for left in reversed(range(ATTEMPTS)):
        try:
            answer = run_client("kernels", "status", kernel, what="the kernel's state", browser=browser)
            break
        except UserError:
            if not left:
                raise
            time.sleep(ASK_EVERY)
    match = re.search(r'has status "(?:\w+\.)?(\w+)"', answer)
    if not match:
        raise UserError(f"the Kaggle client printed no status of {kernel}. {last_words(answer)}\n{browser}")
    return match[1].lower()


def submit(folder: Path) -> None:
    """Submits what a kernel left, with `ensemble.submit`.

    Raises:
        UserError: there is no submission, or another one of the same name.
    """
    blends = sorted(folder.glob("runs/*/ensemble/blend.json"), key=lambda path: path.stat().st_mtime)
    ours = folder / "submission.csv"
    if not blends or not ours.is_file():
        raise UserError(f"{folder}: expected submission.csv and a blended run in runs/. Nothing is finished yet?")
    run = blends[-1].parent.parent.name
    target = SUBMISSIONS / f"{run}.csv"
    if target.exists() and sha256_of(target) != sha256_of(ours):
        raise UserError(
            f"{target} is another submission. Move it away, then: cp {ours} {target} && python -m ensemble.submit "
            f"{run} --runs {folder / 'runs'}"
        )
    shutil.copyfile(ours, target)
    words = ("competitions", "download", "-q", SLUG, "-f", SAMPLE_SUBMISSION, "-p", str(folder), "--unzip")
    run_client(*words, what="the sample submission", browser=f"Or download it in a browser: {PAGE}/data")
    command = [sys.executable, "-m", "ensemble.submit", run, "--runs", str(folder / "runs"), "--data", str(folder)]
    command += ["--submissions", str(SUBMISSIONS)]
    sys.exit(subprocess.run(command, cwd=REPOSITORY, check=False).returncode)


def pack(architecture: Architecture, weights: str, folder: Path) -> Path:
    """Copies the weights of a network into a folder, as ARCHITECTURE.weights.h5.

    Args:
        weights: 'imagenet' for those that Keras publishes, or a folder that has the file.

    Raises:
        UserError: the weights are not available, or the file is another network's.
    """
    pretrained.check_available(architecture, weights)
    source = pretrained.weights_file(architecture, weights)
    if source is None:
        runtime.load_keras()
        with pretrained.downloading(architecture, architecture.published_weights):
            architecture.build(weights="imagenet", include_top=False)
        source = pretrained.keras_cache() / architecture.published_weights
    path = folder / f"{architecture.name}.weights.h5"
    with written_whole(path) as temporary:
        shutil.copyfile(source, temporary)
    return path


def publish_weights(user: str, folder: Path, message: str) -> None:
    """Uploads a folder of weights as a dataset, or as its next version."""
    browser = f"Or upload {folder} in a browser: https://www.kaggle.com/datasets?new=true"
    for words in (("create",), ("version", "-m", message)):
        answer = run_client("datasets", *words, "-q", "-p", str(folder), what="the upload", browser=browser)
        if "already in use" not in answer:  # as it answers before it uploads anything
            break
    if "error" in answer.lower():  # the client exits with 0 all the same
        raise UserError(f"Kaggle did not take the dataset. {last_words(answer)}\n{browser}")
    print(f"uploaded: https://www.kaggle.com/datasets/{user}/{WEIGHTS}")


def checked_user(name: str) -> str:
    """The user name, if it can be one at Kaggle."""
    if not USER_NAME.fullmatch(name):
        raise UserError(
            f"{name!r}: expected your user name as in https://www.kaggle.com/NAME: small letters, digits, '-'."
        )
    return name


def command_line(weights_only: bool) -> CommandLine:
    """The options of kaggle/pack_weights.sh, or of kaggle/push.sh."""
    own = "Packs pretrained weights, as Keras publishes them, and uploads them as a dataset for kernels."
    parser = CommandLine(
        prog="kaggle/pack_weights.sh" if weights_only else "kaggle/push.sh",
        description=own if weights_only else __doc__,
    )
    parser.add_argument("user", metavar="USER", help="your name at Kaggle")
    parser.add_argument("--dry-run", action="store_true", help="only build")
    parser.add_argument(
        "--out", type=Path, default=CACHE / "kaggle", metavar="DIR", help="where it is built [cache/kaggle]"
    )
    if weights_only:
        parser.add_argument(
            "--models", type=names_in, default=DEFAULT_MODELS, metavar='"A B"', help=f"networks [{DEFAULT_MODELS}]"
        )
        parser.add_argument("--weights", default="imagenet", metavar="W", help="imagenet, or a folder [imagenet]")
        return parser
    parser.add_argument("--continue", dest="go_on", action="store_true", help="attach the last version's output")
    parser.add_argument("--wait", action="store_true", help="show the log until it ends, and download the output")
    parser.add_argument("--submit", action="store_true", help="as --wait, and submit the result")
    parser.add_argument("--allow-changes", action="store_true", help="push files that differ from the last commit")
    parser.add_argument(
        "--options",
        default="--time-budget 8h30m",
        metavar="TEXT",
        help='of run_all.sh, as --options="..." [--time-budget 8h30m]',
    )
    parser.add_argument(
        "--accelerator", default="", metavar="NAME", help=f"{', '.join(GPUS)} [NvidiaTeslaT4, which is two]"
    )
    parser.add_argument(
        "--weights-from",
        nargs="+",
        default=(),
        metavar="REF",
        help=f"datasets or models at Kaggle that hold the weights [USER/{WEIGHTS}]",
    )
    return parser


def main() -> None:
    weights_only = "--weights-only" in sys.argv[1:2]
    arguments = command_line(weights_only).parse_args(sys.argv[1 + weights_only :])
    user, out = checked_user(arguments.user), arguments.out
    if weights_only:
        upload_weights(user, arguments.models, arguments.weights, out / "weights", arguments.dry_run)
        return
    if arguments.accelerator and arguments.accelerator not in GPUS:
        hint = nearest(arguments.accelerator, list(GPUS)) or "."
        raise UserError(f"--accelerator {arguments.accelerator}: expected one of {', '.join(GPUS)}{hint}")
    stamp = revision(arguments.allow_changes)
    metadata = build_kernel(
        user, stamp, arguments.options, out / "kernel", arguments.go_on, arguments.accelerator, arguments.weights_from
    )
    size = (out / "kernel" / "kernel.py").stat().st_size
    print(f"{out / 'kernel'}: the kernel, {size / 1e6:.1f} MB, revision {stamp}")
    if arguments.dry_run:
        print("nothing was pushed (--dry-run)")
        return
    wait = arguments.wait or arguments.submit
    for reference in metadata["dataset_sources"] if wait else ():
        wait_for_dataset(reference)
    answer = push_kernel(out / "kernel")
    print(answer, flush=True)
    if not wait:
        return
    version = re.search(r"Kernel version (\d+)", answer)
    output = out / "output"
    shutil.rmtree(output, ignore_errors=True)
    follow(f"{metadata['id']}/{version[1]}" if version else metadata["id"], output)
    for name in ("submission.csv", "runs/*/report.html"):
        print(*(f"{path}: written by the kernel" for path in sorted(output.glob(name))), sep="\n")
    if arguments.submit:
        submit(output)


def upload_weights(user: str, models: list[str], weights: str, folder: Path, dry_run: bool) -> None:
    """kaggle/pack_weights.sh"""
    if weights == "none":
        raise UserError("--weights none: there is nothing to pack. Expected imagenet, or a folder.")
    networks = zoo.find_all(models)
    for path in (pack(network, weights, folder) for network in networks):
        print(f"{path}: {path.stat().st_size / 1e6:.0f} MB", flush=True)
    metadata = {"title": WEIGHTS, "id": f"{user}/{WEIGHTS}", "licenses": [{"name": "other"}]}
    write_json(folder / "dataset-metadata.json", metadata)
    if dry_run:
        print("nothing was uploaded (--dry-run)")
        return
    publish_weights(user, folder, " ".join(network.name for network in networks))


if __name__ == "__main__":
    run_command(main)
