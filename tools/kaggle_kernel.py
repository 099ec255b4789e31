"""Runs the pipeline in a Kaggle kernel: offline, on the image's packages, from the mounts to submission.csv.

    python -m tools.kaggle_kernel /kaggle STARTED [options of run_all.sh]

Started by kaggle/kernel.py. Under the root, input/ has the competition's data, weights, and perhaps the output of an
earlier version, whose finished fold runs are kept and whose unfinished ones resume. working/ gets runs/ and
submission.csv.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from common.competition import DRIVER_LIST, SAMPLE_SUBMISSION
from common.errors import NOTHING_FINISHED, UserError, named, run_command
from common.run_folder import REPOSITORY, RunFolder
from common.settings import names_in
from models.finetuning import architecture as zoo
from models.finetuning.architecture import Architecture
from models.finetuning.network import weights as pretrained
from pipeline.options import PRESETS, pipeline_parser
from pipeline.plan import STARTED

NOT_LOOKED_INTO = ("imgs", "fold_")  # beginnings of the names of folders that are full of files
DOCTOR_SECONDS = 8  # of training steps; with loading and building about 20
CACHE_LIMIT = "40"  # GiB; the disk beside working/ has about 57


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


def main() -> None:
    root, started, options = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
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


if __name__ == "__main__":
    run_command(main)
