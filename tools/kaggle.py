"""Pushes the pipeline to Kaggle as a kernel, and Keras's weights as a dataset, with Kaggle's own client.

    kaggle/push.sh USER                                the last commit as a kernel, which starts
    kaggle/push.sh USER --continue                     the next version resumes what the last one left
    kaggle/push.sh USER --wait                         follows its log to the end and downloads its output
    kaggle/push.sh USER --submit                       the same, and submits the result
    kaggle/push.sh USER --dry-run                      only builds, into cache/kaggle/
    kaggle/push.sh USER --options="--models resnet50 --time-budget 2h"

The kernel carries the code: every file of the last commit that it needs, stamped with the revision.
"""

import argparse
import base64
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from common.competition import DRIVER_LIST, SAMPLE_SUBMISSION, SLUG
from common.errors import NOTHING_FINISHED, UserError, named, run_command
from common.files import sha256_of, write_json, write_text, written_whole
from common.kaggle_client import PAGE, last_words, run_client, secrets
from common.run_folder import BUNDLE_MANIFEST, CACHE, REPOSITORY, SUBMISSIONS, RunFolder
from common.settings import CommandLine, names_in
from models.finetuning import architecture as zoo
from models.finetuning import runtime
from models.finetuning.architecture import Architecture
from models.finetuning.network import weights as pretrained
from pipeline.options import DEFAULT_MODELS, PRESETS, pipeline_parser
from pipeline.plan import STARTED
from pipeline.resources import GPUS

WEIGHTS = "statefarm-weights"  # the user's dataset
LEFT_OUT = ("tests/", "docs/", "benchmarks/", "kaggle/", ".")  # what a kernel does not need
SECRET_NAMES = re.compile(r"(^|/)(kaggle\.json|access_token.*|credentials.*|\.env.*|id_rsa.*|.*\.(pem|key))$")
ASK_EVERY = 15.0  # seconds
NOT_STARTED, ENDED = ("queued", "new_script"), ("complete", "error", "cancel_acknowledged")  # states of a kernel
SMALL_OUTPUTS = r"^(?!.*\.(keras|npy|npz)$)"  # all but the networks and features, which take GB
NOT_LOOKED_INTO = ("imgs", "fold_")  # beginnings of the names of folders that are full of files
DOCTOR_SECONDS = 8  # of training steps; with loading and building about 20
CACHE_LIMIT = "40"  # GiB; the disk beside working/ has about 57


def git(*words: str) -> str:
    """The output of a git command in this repository."""
    try:
        return subprocess.run(["git", *words], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(f"expected a git checkout to push, but git failed in {REPOSITORY}: {error}") from error


def revision(allow_changes: bool) -> str:
    """The revision of the last commit, with '-changed' where files differ from it, which has to be allowed."""
    changed = [line[3:] for line in git("status", "--porcelain").splitlines()]
    if changed and not allow_changes:
        raise UserError(
            f"files differ from the last commit ({named(changed)}), so no revision would name what is pushed. Commit "
            "them, or push them as they are with --allow-changes (files that git does not track stay out)."
        )
    return git("rev-parse", "HEAD").strip() + ("-changed" if changed else "")


def bundled_files() -> list[str]:
    """Paths of the files that git tracks and a kernel needs, if none holds a credential of this machine."""
    names = [name for name in git("ls-files").splitlines() if not name.startswith(LEFT_OUT)]
    names = [name for name in names if (REPOSITORY / name).is_file()]
    for name in names:
        content = (REPOSITORY / name).read_bytes()
        if SECRET_NAMES.search(name) or any(secret.encode() in content for secret in secrets()):
            raise UserError(f"{name} is or has a credential, it seems, and git tracks it. Take it out.")
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


def build_kernel(arguments: argparse.Namespace, stamp: str) -> dict:
    """Writes the folder of the kernel: its script with options and code, and its metadata, which is returned."""
    template, folder, sources = REPOSITORY / "kaggle", arguments.out / "kernel", arguments.weights_from
    metadata = json.loads((template / "kernel-metadata.json").read_text().replace("USER/", f"{arguments.user}/"))
    metadata["kernel_sources"] = [metadata["id"]] if arguments.go_on else []
    metadata["machine_shape"] = arguments.accelerator or metadata["machine_shape"]
    if sources:
        metadata["dataset_sources"] = [name for name in sources if name.count("/") == 1]
        metadata["model_sources"] = [name for name in sources if name.count("/") != 1]
    script = (template / "kernel.py").read_text()
    for name, value in (("OPTIONS", repr(arguments.options)), ("CODE", f'"""\n{packed_code(stamp)}"""')):
        line = next(line for line in script.splitlines() if line.startswith(f"{name} = "))
        script = script.replace(line, f"{name} = {value}")
    write_json(folder / "kernel-metadata.json", metadata)
    write_text(folder / "kernel.py", script)
    return metadata


def wait_for_dataset(reference: str) -> None:
    """Waits until Kaggle has processed the last version of a dataset."""
    browser, known = f"Its page: https://www.kaggle.com/datasets/{reference}", ""
    while True:
        answer = run_client("datasets", "status", reference, what=f"the dataset {reference}", browser=browser)
        status = answer.strip().rpartition("\n")[2]
        if status == "ready":
            return
        if status in ("failed", "deleted"):
            raise UserError(f"the dataset {reference} is {status} at Kaggle. Upload it again. {browser}")
        if status != known:
            print(f"{reference}: {status}; waiting until it is ready", flush=True)
        known = status
        time.sleep(ASK_EVERY)


def follow(kernel: str, folder: Path) -> None:
    """Shows the log of a kernel (USER/NAME/VERSION) as it runs, and downloads what it leaves."""
    browser = f"Its page: https://www.kaggle.com/code/{'/'.join(kernel.split('/')[:2])}"
    print(f"{kernel}: waiting until it starts", flush=True)
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
    for path in [*folder.glob("submission.csv"), *sorted(folder.glob("runs/*/report.html"))]:
        print(f"{path}: written by the kernel")


def state_of(kernel: str, browser: str, attempts: int = 20) -> str:
    """The state of a version of a kernel, such as 'running'. It is asked for hours, so Kaggle may fail at times."""
    try:
        answer = run_client("kernels", "status", kernel, what="the kernel's state", browser=browser)
    except UserError:
        if attempts == 1:
            raise
        time.sleep(ASK_EVERY)
        return state_of(kernel, browser, attempts - 1)
    found = re.search(r'has status "(?:\w+\.)?(\w+)"', answer)
    if not found:
        raise UserError(f"Kaggle's client printed no status of {kernel}, but: {answer.strip()[-200:]}. {browser}")
    return found[1].lower()


def submit(folder: Path) -> None:
    """Submits what a kernel left, with `ensemble.submit`."""
    blends = sorted(folder.glob("runs/*/ensemble/blend.json"), key=lambda path: path.stat().st_mtime)
    ours = folder / "submission.csv"
    if not blends or not ours.is_file():
        raise UserError(f"{folder}: expected submission.csv and a blended run in runs/. Nothing is finished yet?")
    run = blends[-1].parent.parent.name
    target = SUBMISSIONS / f"{run}.csv"
    if target.exists() and sha256_of(target) != sha256_of(ours):
        raise UserError(f"{target} is another submission than {ours}. Move it away.")
    shutil.copyfile(ours, target)
    words = ("competitions", "download", "-q", SLUG, "-f", SAMPLE_SUBMISSION, "-p", str(folder), "--unzip")
    run_client(*words, what="the sample submission", browser=f"Or download it in a browser: {PAGE}/data")
    command = [sys.executable, "-m", "ensemble.submit", run, "--runs", str(folder / "runs"), "--data", str(folder)]
    command += ["--submissions", str(SUBMISSIONS)]
    sys.exit(subprocess.run(command, cwd=REPOSITORY, check=False).returncode)


def upload_weights(arguments: argparse.Namespace) -> None:
    """Packs the weights of networks as ARCHITECTURE.weights.h5, and uploads them as a dataset or its next version."""
    if arguments.weights == "none":
        raise UserError("--weights none: there is nothing to pack. Expected imagenet, or a folder of weights.")
    folder, networks = arguments.out / "weights", zoo.find_all(arguments.models)
    for network in networks:
        pretrained.check_available(network, arguments.weights)
        source, path = pretrained.weights_file(network, arguments.weights), folder / f"{network.name}.weights.h5"
        if source is None:
            runtime.load_keras()
            with pretrained.downloading(network):
                network.build(weights="imagenet", include_top=False)
            source = pretrained.published_file(network)
        with written_whole(path) as temporary:
            shutil.copyfile(source, temporary)
        print(f"{path}: {path.stat().st_size / 1e6:.0f} MB", flush=True)
    reference = f"{arguments.user}/{WEIGHTS}"
    write_json(folder / "dataset-metadata.json", {"title": WEIGHTS, "id": reference, "licenses": [{"name": "other"}]})
    if arguments.dry_run:
        print("nothing was uploaded (--dry-run)")
        return
    browser = f"Or upload {folder} in a browser: https://www.kaggle.com/datasets?new=true"
    for words in (["create"], ["version", "-m", " ".join(network.name for network in networks)]):
        answer = run_client("datasets", *words, "-q", "-p", str(folder), what="the upload", browser=browser)
        if "already in use" not in answer:  # as it answers before it uploads anything
            break
    if "error" in answer.lower():  # the client exits with 0 all the same
        raise UserError(f"Kaggle did not take the dataset. {last_words(answer)}\n{browser}")
    print(f"uploaded: https://www.kaggle.com/datasets/{reference}")


def command_line(weights_only: bool) -> CommandLine:
    """The options of kaggle/pack_weights.sh, or of kaggle/push.sh."""
    own = "Packs pretrained weights, as Keras publishes them, and uploads them as a dataset for kernels."
    prog, description = ("pack_weights.sh", own) if weights_only else ("push.sh", __doc__)
    parser = CommandLine(prog=f"kaggle/{prog}", description=description)
    add, built, budget = parser.add_argument, CACHE / "kaggle", "--time-budget 8h30m"
    add("user", metavar="USER", help="your name at Kaggle")
    add("--dry-run", action="store_true", help="only build")
    add("--out", type=Path, default=built, metavar="DIR", help="where it is built [cache/kaggle]")
    if weights_only:
        add("--models", type=names_in, default=DEFAULT_MODELS, metavar='"A B"', help=f"networks [{DEFAULT_MODELS}]")
        add("--weights", default="imagenet", metavar="W", help="imagenet, or a folder [imagenet]")
        return parser
    add("--continue", dest="go_on", action="store_true", help="attach the last version's output")
    add("--wait", action="store_true", help="show the log until it ends, and download the output")
    add("--submit", action="store_true", help="as --wait, and submit the result")
    add("--allow-changes", action="store_true", help="push files that differ from the last commit")
    add("--options", type=shlex.split, default=budget, metavar="TEXT", help=f"of run_all.sh, as one word [{budget}]")
    add("--accelerator", choices=[*GPUS], default="", help="[NvidiaTeslaT4, which is two]")
    where = f"datasets or models at Kaggle that hold the weights [USER/{WEIGHTS}]"
    add("--weights-from", nargs="+", default=(), metavar="REF", help=where)
    return parser


def push(arguments: argparse.Namespace) -> None:
    """Builds the kernel and pushes it; follows and submits it where that is asked for."""
    kernel, output = arguments.out / "kernel", arguments.out / "output"
    stamp = revision(arguments.allow_changes)
    metadata = build_kernel(arguments, stamp)
    print(f"{kernel}: the kernel, {(kernel / 'kernel.py').stat().st_size / 1e6:.1f} MB, revision {stamp}")
    if arguments.dry_run:
        print("nothing was pushed (--dry-run)")
        return
    wait = arguments.wait or arguments.submit
    for reference in metadata["dataset_sources"] if wait else ():
        wait_for_dataset(reference)
    browser = f"Or make a notebook in a browser (https://www.kaggle.com/code), of the script {kernel}/kernel.py."
    answer = run_client("kernels", "push", "-p", str(kernel), what="the kernel", browser=browser).strip()
    if "push error" in answer or "not valid" in answer:
        raise UserError(
            f"Kaggle did not take the kernel as it is. {last_words(answer)}\nExpected: the rules of {SLUG} accepted, "
            "and the datasets there. Weights: kaggle/pack_weights.sh USER, or --weights-from OWNER/DATASET, or "
            "OWNER/MODEL/keras/VARIATION/VERSION."
        )
    print(answer, flush=True)
    if wait:
        version = re.search(r"Kernel version (\d+)", answer)
        shutil.rmtree(output, ignore_errors=True)
        follow(f"{metadata['id']}/{version[1]}" if version else metadata["id"], output)
    if arguments.submit:
        submit(output)


def folders(root: Path) -> Iterator[Path]:
    """The folders under `root` at any depth, less those that are full of images."""
    for path, inner, _ in os.walk(root, followlinks=True):
        inner[:] = sorted(name for name in inner if not name.startswith(NOT_LOOKED_INTO))
        yield Path(path)


def find_data(root: Path) -> Path:
    """The competition's folder among the inputs."""
    for folder in folders(root):
        if (folder / DRIVER_LIST).is_file() and (folder / SAMPLE_SUBMISSION).is_file():
            return folder
    raise UserError(
        f"{root}: no folder with {DRIVER_LIST}. Attach the competition's data to the kernel ('Add input', the "
        "competition), after its rules were accepted."
    )


def gather_weights(root: Path, networks: Sequence[Architecture], into: Path) -> Path:
    """A folder with NAME.weights.h5 of each network: links to files of the inputs, which are known by their content."""
    into.mkdir(parents=True, exist_ok=True)
    files = [path for folder in folders(root) for path in sorted(folder.glob("*.h5"))]
    lacking = []
    for network in networks:
        link = into / f"{network.name}.weights.h5"
        by_name = sorted(files, key=lambda path: path.name != link.name)
        path = next((path for path in by_name if pretrained.fits(path, network)), None)
        if path is None:
            lacking.append(network.name)
            continue
        print(f"weights  {network.name}: {path}", flush=True)
        link.unlink(missing_ok=True)
        link.symlink_to(path)
    if lacking:
        raise UserError(
            f"{root}: no weights of {named(lacking)} without its top, among {len(files)} files *.h5, and there is no "
            "internet to download them. Attach a dataset or model that has them: kaggle/pack_weights.sh USER uploads "
            "your own, kaggle/push.sh USER --weights-from OWNER/DATASET names a public one."
        )
    return into


def take_over(root: Path, runs: Path) -> None:
    """Copies the runs of earlier versions among the inputs, each from where most of its fold runs are finished."""
    found = [RunFolder(path) for path in folders(root) if path.parent.name == "runs"]
    for run in sorted((run for run in found if run.folds.is_file()), key=lambda run: -len(run.finished())):
        if (runs / run.name).exists():
            continue
        for path in sorted(run.path.rglob("*")):  # the modes are not copied: the inputs are read-only
            if path.is_file():
                target = runs / run.name / path.relative_to(run.path)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
        print(f"resumes run {run.name} of {run.path}: {len(run.finished())} fold runs are finished", flush=True)


def run_kernel(root: Path, started: str, *options: str) -> None:
    """Runs the pipeline in a Kaggle kernel: offline, on the image's packages, from the mounts to submission.csv.

    Under the root, input/ has the competition's data, weights, and perhaps the output of an earlier version, whose
    finished fold runs are kept and whose unfinished ones resume. working/ gets runs/ and submission.csv. `started` is
    in seconds since 1970; the options are those of run_all.sh.
    """
    inputs, working, scratch = root / "input", root / "working", root / "tmp"
    given = pipeline_parser().parse_args(options)
    data = find_data(inputs)
    take_over(inputs, working / "runs")
    places = ["--data", data, "--runs", working / "runs", "--cache", scratch / "cache"]
    places += ["--submissions", scratch / "submissions", "--cache-limit", CACHE_LIMIT]
    networks, weights = zoo.find_all(given.models or names_in(PRESETS[given.preset].models)), given.weights
    attached = any(next(folder.glob("*.h5"), None) for folder in folders(inputs))
    if weights == "imagenet" and (attached or not pretrained.reachable()):
        weights = gather_weights(inputs, networks, scratch / "weights")
        places += ["--weights", weights]
    environment = os.environ | {"STATEFARM_PACKAGES": "installed", STARTED: started, "PYTHONUNBUFFERED": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    examined = ["--models", networks[0].name, "--seconds", DOCTOR_SECONDS, "--data", data, "--weights", weights]
    subprocess.run([sys.executable, "-m", "tools.doctor", *map(str, examined)], env=environment, check=False)
    command = ["bash", str(REPOSITORY / "run_all.sh"), *map(str, places), *options]
    status = subprocess.run(command, env=environment, check=False).returncode
    for path in sorted((scratch / "submissions").glob("*.csv"), key=lambda path: path.stat().st_mtime)[-1:]:
        shutil.copyfile(path, working / "submission.csv")
        print(f"{working / 'submission.csv'}: written", flush=True)
    if status == NOTHING_FINISHED:
        print(
            "Nothing is finished yet, so there is no submission. Push the next version with this one's output attached "
            "(kaggle/push.sh USER --continue): it resumes where this one stopped."
        )
    elif status:
        sys.exit(status)


def main() -> None:
    mode, *words = sys.argv[1:]
    if mode == "kernel":
        run_kernel(Path(words[0]), *words[1:])
    elif mode == "pack_weights":
        upload_weights(command_line(weights_only=True).parse_args(words))
    else:
        push(command_line(weights_only=False).parse_args(words))


if __name__ == "__main__":
    run_command(main)
