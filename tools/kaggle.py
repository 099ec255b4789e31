"""Pushes the pipeline to Kaggle as a kernel, and Keras's weights as a dataset, with Kaggle's own client.

    kaggle/pack_weights.sh USER            once: the weights of the default models, as Keras publishes them
    kaggle/push.sh USER                    the last commit as a kernel, which starts
    kaggle/push.sh USER --continue         the next version resumes what the last one left
    kaggle/push.sh USER --wait             follows its log to the end and downloads its output
    kaggle/push.sh USER --submit           the same, and submits the result
    kaggle/push.sh USER --dry-run          only builds, into cache/kaggle/
    kaggle/push.sh USER --options="--models resnet50 --time-budget 2h"

The kernel carries the code: every file of the last commit that it needs, stamped with the revision.
"""

import argparse
import base64
import glob
import io
import json
import lzma
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path

from common.competition import DRIVER_LIST, SAMPLE_SUBMISSION
from common.errors import NOTHING_FINISHED, UserError, named, run_command
from common.files import sha256_of, write_json, write_text, written_whole
from common.kaggle_client import run_client, secrets
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
# Last states of datasets and kernels, as Kaggle's client prints them.
ENDED = ("ready", "failed", "deleted", "complete", "error", "cancel_acknowledged")
SMALL_OUTPUTS = r"^(?!.*\.(keras|npy|npz)$)"  # all but the networks and features, which take GB


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


def bundled_files() -> dict[str, bytes]:
    """The files that git tracks and a kernel needs, by their paths, if none holds a credential of this machine."""
    names, hidden = [name for name in git("ls-files").splitlines() if not name.startswith(LEFT_OUT)], secrets()
    files = {name: (REPOSITORY / name).read_bytes() for name in names if (REPOSITORY / name).is_file()}
    for name, content in files.items():
        if SECRET_NAMES.search(name) or any(secret.encode() in content for secret in hidden):
            raise UserError(f"{name} is or has a credential, it seems, and git tracks it. Take it out.")
    return files


def packed_code(stamp: str) -> str:
    """The code and its revision, as `CODE` of kernel.py; the same bytes for the same files."""
    files = bundled_files() | {BUNDLE_MANIFEST: json.dumps({"revision": stamp}).encode()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # which has no time of change
    return base64.encodebytes(lzma.compress(buffer.getvalue())).decode()


def build_kernel(arguments: argparse.Namespace, stamp: str) -> dict:
    """Writes the folder of the kernel: its script with options and code, and its metadata, which is returned."""
    template, folder, sources = REPOSITORY / "kaggle", arguments.out / "kernel", arguments.weights_from
    metadata = json.loads((template / "kernel-metadata.json").read_text().replace("USER/", f"{arguments.user}/"))
    metadata["kernel_sources"] = [metadata["id"]] if arguments.go_on else []
    metadata["machine_shape"] = arguments.accelerator
    if sources:
        metadata["dataset_sources"] = [name for name in sources if name.count("/") == 1]
        metadata["model_sources"] = [name for name in sources if name.count("/") != 1]
    script = (template / "kernel.py").read_text().replace("OPTIONS = []", f"OPTIONS = {arguments.options}")
    write_json(folder / "kernel-metadata.json", metadata)
    write_text(folder / "kernel.py", script.replace('CODE = ""', f'CODE = """\n{packed_code(stamp)}"""'))
    return metadata


def wait_until(states: Collection[str], kind: str, reference: str, page: str, failures: int = 20) -> str:
    """The state of a dataset or kernel, once it is one of these. As it may take hours, Kaggle may fail meanwhile."""
    state, failed = "", 0
    while state not in states:
        time.sleep(ASK_EVERY if state or failed else 0)
        try:
            answer, failed = run_client(kind, "status", reference, browser=page), 0
        except UserError:
            answer, failed = "", failed + 1
            if failed > failures:
                raise
        found = re.search(r'(\w+)"?$', answer, re.MULTILINE)  # of 'ready', or '... status "KernelWorkerStatus.RUNNING"'
        if found and found[1].lower() != state:
            state = found[1].lower()
            print(f"{reference}: {state}", flush=True)
    return state


def follow(kernel: str, page: str, folder: Path) -> None:
    """Shows the log of a kernel (USER/NAME/VERSION) as it runs, and downloads what it leaves."""
    wait_until(("running", "cancel_requested", *ENDED), "kernels", kernel, page)
    run_client("kernels", "logs", "-f", kernel, browser=page, show=True)
    if (state := wait_until(ENDED, "kernels", kernel, page)) != "complete":
        raise UserError(
            f"the kernel ended as {state!r}, see above. What it finished is kept: push again with --continue. {page}"
        )
    shutil.rmtree(folder, ignore_errors=True)
    words = ("kernels", "output", "-q", "-o", kernel, "-p", str(folder), "--file-pattern", SMALL_OUTPUTS)
    run_client(*words, browser=page)
    print(f"{folder}: the output, but for networks and features: .venv/bin/kaggle kernels output {kernel}")
    for path in [*folder.glob("submission.csv"), *sorted(folder.glob("runs/*/report.html"))]:
        print(f"{path}: written by the kernel")


def submit(folder: Path) -> None:
    """Submits what a kernel left, with `ensemble.submit`."""
    ours = folder / "submission.csv"
    sha256 = sha256_of(ours) if ours.is_file() else "nothing"
    run = next((path.parts[-3] for path in folder.glob("runs/*/ensemble/blend.json") if sha256 in path.read_text()), "")
    if not run:
        raise UserError(f"{folder}: expected submission.csv and a blended run in runs/. Nothing is finished yet?")
    target = SUBMISSIONS / f"{run}.csv"
    if target.exists() and sha256_of(target) != sha256:
        raise UserError(f"{target} is another submission than {ours}. Move it away.")
    shutil.copyfile(ours, target)
    command = [sys.executable, "-m", "ensemble.submit", run, "--runs", str(folder / "runs")]
    command += ["--data", str(folder / "runs"), "--submissions", str(SUBMISSIONS)]
    sys.exit(subprocess.run(command, cwd=REPOSITORY, check=False).returncode)


def upload_weights(arguments: argparse.Namespace) -> None:
    """Packs the weights of networks as ARCHITECTURE.weights.h5, and uploads them as a dataset or its next version."""
    if arguments.weights == "none":
        raise UserError("--weights none: there is nothing to pack. Expected imagenet, or a folder of weights.")
    folder, networks = arguments.out / "weights", zoo.find_all(arguments.models)
    reference = f"{arguments.user}/{WEIGHTS}"
    write_json(folder / "dataset-metadata.json", {"title": WEIGHTS, "id": reference, "licenses": [{"name": "other"}]})
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
    if arguments.dry_run:
        return
    browser = f"Or upload {folder} in a browser: https://www.kaggle.com/datasets?new=true"
    answer = run_client("datasets", "create", "-q", "-p", str(folder), browser=browser)
    if "already in use" in answer:  # as it says before it uploads anything
        run_client("datasets", "version", "-q", "-p", str(folder), "-m", " ".join(arguments.models), browser=browser)
    print(f"uploaded: https://www.kaggle.com/datasets/{reference}")


def command_line(mode: str) -> CommandLine:
    """The options of kaggle/pack_weights.sh, or of kaggle/push.sh."""
    parser = CommandLine(prog=f"kaggle/{mode}.sh", description=__doc__)
    add, budget, default = parser.add_argument, "--time-budget 8h30m", "NvidiaTeslaT4"
    add("user", metavar="USER", help="your name at Kaggle")
    add("--dry-run", action="store_true", help="only build")
    add("--out", type=Path, default=CACHE / "kaggle", metavar="DIR", help="where it is built [cache/kaggle]")
    if mode == "pack_weights":
        add("--models", type=names_in, default=DEFAULT_MODELS, metavar='"A B"', help=f"networks [{DEFAULT_MODELS}]")
        add("--weights", default="imagenet", metavar="W", help="imagenet, or a folder [imagenet]")
        return parser
    add("--continue", dest="go_on", action="store_true", help="attach the last version's output")
    add("--wait", action="store_true", help="show the log until it ends, and download the output")
    add("--submit", action="store_true", help="as --wait, and submit the result")
    add("--allow-changes", action="store_true", help="push files that differ from the last commit")
    add("--options", type=shlex.split, default=budget, metavar="TEXT", help=f"of run_all.sh, as one word [{budget}]")
    add("--accelerator", choices=[*GPUS], default=default, help=f"[{default}, which is two]")
    sources = f"datasets or models at Kaggle that hold the weights [USER/{WEIGHTS}]"
    add("--weights-from", nargs="+", default=(), metavar="REF", help=sources)
    return parser


def push(arguments: argparse.Namespace) -> None:
    """Builds the kernel and pushes it; follows and submits it where that is asked for."""
    kernel, output = arguments.out / "kernel", arguments.out / "output"
    stamp = revision(arguments.allow_changes)
    metadata = build_kernel(arguments, stamp)
    print(f"{kernel}: the kernel, {(kernel / 'kernel.py').stat().st_size / 1e6:.1f} MB, revision {stamp}")
    if arguments.dry_run:
        return
    wait = arguments.wait or arguments.submit
    for reference in metadata["dataset_sources"] if wait else ():
        page = f"Its page: https://www.kaggle.com/datasets/{reference}"
        if (state := wait_until(ENDED, "datasets", reference, page, failures=0)) != "ready":
            raise UserError(f"the dataset {reference} is {state} at Kaggle. Upload it again. {page}")
    weights = "Weights: kaggle/pack_weights.sh USER, or --weights-from OWNER/DATASET or OWNER/MODEL/keras/VARIATION/1."
    browser = f"{weights}\nOr make a notebook in a browser (https://www.kaggle.com/code), of {kernel}/kernel.py."
    answer = run_client("kernels", "push", "-p", str(kernel), browser=browser).strip()
    print(answer, flush=True)
    if wait:
        version = re.findall(r"Kernel version (\d+)", answer)
        page = f"Its page: https://www.kaggle.com/code/{metadata['id']}"
        follow("/".join([metadata["id"], *version]), page, output)
    if arguments.submit:
        submit(output)


def gather_weights(files: Sequence[Path], networks: Sequence[Architecture], into: Path) -> Path:
    """A folder with NAME.weights.h5 of each network: links to those of the files that have its weights in them."""
    into.mkdir(parents=True, exist_ok=True)
    for network in networks:
        link = into / f"{network.name}.weights.h5"
        link.unlink(missing_ok=True)
        for path in sorted(files, key=lambda path: path.name != link.name):
            if pretrained.fits(path, network):
                link.symlink_to(path)
                break
        print(f"weights  {network.name}: {link.readlink() if link.is_symlink() else 'none'}", flush=True)
    if lacking := [network.name for network in networks if not (into / f"{network.name}.weights.h5").exists()]:
        raise UserError(
            f"no weights of {named(lacking)} without its top, among {len(files)} files *.h5. Attach some: "
            "kaggle/pack_weights.sh USER uploads yours, kaggle/push.sh USER --weights-from OWNER/DATASET names others."
        )
    return into


def take_over(inputs: Sequence[Path], runs: Path) -> None:
    """Copies the runs of earlier versions among the inputs, each from where most of its fold runs are finished."""
    found = [RunFolder(path) for path in inputs if path.parent.name == "runs" and (path / "folds.csv").is_file()]
    for run in sorted(found, key=lambda run: -len(run.finished())):
        copy = runs / run.name
        if not copy.exists():
            shutil.copytree(run.path, copy, copy_function=shutil.copyfile)
            for folder in (copy, *copy.rglob("*/")):
                folder.chmod(0o755)  # the inputs are read-only
            print(f"resumes run {run.name} of {run.path}: {len(run.finished())} fold runs are finished", flush=True)


def run_kernel(root: Path, *options: str) -> None:
    """Runs the pipeline in a Kaggle kernel: offline, on the image's packages, from the mounts to submission.csv.

    Under the root, input/ has the competition's data, weights, and perhaps the output of an earlier version, which is
    resumed. working/ gets runs/ and submission.csv. The options are those of run_all.sh.
    """
    environment = os.environ | {"STATEFARM_PACKAGES": "installed", STARTED: str(time.time()), "PYTHONUNBUFFERED": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    given = pipeline_parser().parse_args(options)
    inputs = sorted(map(Path, glob.glob(f"{root}/input/**/", recursive=True)))  # noqa: PTH207  it follows links
    runs, scratch = root / "working" / "runs", root / "tmp"
    tables = (DRIVER_LIST, SAMPLE_SUBMISSION)
    data = next((folder for folder in inputs if all((folder / name).is_file() for name in tables)), None)
    if data is None:
        raise UserError(f"{root}/input: no {DRIVER_LIST}. Accept the competition's rules, and attach its data.")
    take_over(inputs, runs)
    networks, weights = zoo.find_all(given.models or names_in(PRESETS[given.preset].models)), given.weights
    files = [path for folder in inputs for path in sorted(folder.glob("*.h5"))]
    if weights == "imagenet" and (files or not pretrained.reachable()):
        weights = str(gather_weights(files, networks, scratch / "weights"))
    examined = ["--models", networks[0].name, "--seconds", "8", "--data", str(data), "--weights", weights]
    subprocess.run([sys.executable, "-m", "tools.doctor", *examined], env=environment, check=False)
    places = [f"--data={data}", f"--runs={runs}", f"--cache={scratch}/cache", f"--submissions={scratch}/submissions"]
    places += [f"--weights={weights}", "--cache-limit=40"]  # GiB; the disk beside working/ has about 57
    command = ["bash", str(REPOSITORY / "run_all.sh"), *places, *options]
    status = subprocess.run(command, env=environment, check=False).returncode
    for path in sorted((scratch / "submissions").glob("*.csv"), key=lambda path: path.stat().st_mtime)[-1:]:
        shutil.copyfile(path, root / "working" / "submission.csv")
        shutil.copyfile(data / SAMPLE_SUBMISSION, runs / SAMPLE_SUBMISSION)  # which `submit` needs
    if status == NOTHING_FINISHED:
        print("There is no submission yet. Push the next version, which resumes: kaggle/push.sh USER --continue")
    elif status:
        sys.exit(status)


def main() -> None:
    mode, *words = sys.argv[1:]
    if mode == "kernel":
        run_kernel(Path(words[0]), *words[1:])
    else:
        work = push if mode == "push" else upload_weights
        work(command_line(mode).parse_args(words))


if __name__ == "__main__":
    run_command(main)
