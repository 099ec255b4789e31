"""What is installed here, and what each network does on this machine: one table, made to be pasted into a bug report.

    python -m tools.doctor                                       two minutes, on the default networks
    python -m tools.doctor --models mobilenet --seconds 10
    python -m tools.doctor --packages                            only whether the packages are new enough

Each network takes 20 training steps on random images in a process of its own, predicts, is saved, loaded, and compared.
"""

import json
import math
import platform
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.version import Version

from common import environment
from common.competition import COMPLETE_TEST_IMAGES, COMPLETE_TRAIN_IMAGES, NUMBER_OF_CLASSES
from common.errors import SOME_FAILED, UserError, masked, run_command
from common.files import free_bytes
from common.run_folder import CACHE, REPOSITORY
from common.settings import CommandLine, names_in, number
from models.finetuning import architecture as zoo
from models.finetuning import runtime
from models.finetuning.architecture import Architecture
from models.finetuning.network import weights as pretrained
from pipeline import resources
from pipeline.options import DEFAULT_MODELS
from pipeline.resources import GIBIBYTE, GPUS, UNKNOWN_GPU, Device, duration

STEPS = 20
FOLDS = 5  # of the full run that is estimated
LARGEST_DIFFERENCE = 0.1  # between probabilities in half precision and those of the saved network, in float32
ROW = "{:<17} {:>8} {:>6} {:>11} {:>11} {:>7} {:>7} {:>9} {:>10} {:>9}{}"
HEADER = ["network", "size", "steps", "training/s", "predict/s", "loss", "then", "GiB(+GPU)", "difference", "full run"]
# The oldest versions that were tried, by the names under which a package may be installed. .venv has those of
# requirements.txt; a Kaggle kernel has no internet and so uses its image's.
LOWEST = {
    ("keras",): "3.8.0",
    ("numpy",): "1.26.4",
    ("pandas",): "2.2.2",
    ("scipy",): "1.14.1",
    ("scikit-learn",): "1.2.2",
    ("opencv-python-headless", "opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless"): "4.10.0",
    ("matplotlib",): "3.7.2",
    ("pillow",): "10.1.0",
    ("filelock",): "3.13.1",
}
BACKENDS = {"tensorflow": (("tensorflow", "tensorflow-cpu"), "2.18.0"), "jax": (("jax",), "0.6.2")}
WHAT_TO_DO = (
    "In a Kaggle notebook: Settings, Environment, 'Always use latest environment' (a kernel that is pushed takes the "
    "latest unless its docker_image says otherwise). Elsewhere: unset STATEFARM_PACKAGES, and .venv is made."
)


def check_installed() -> list[str]:
    """Checks every package whose version matters; returns what is installed, as 'keras 3.10.0'.

    Raises:
        UserError: some are missing, or older than the oldest that was tried.
    """
    faults = [] if sys.version_info >= (3, 11) else [f"Python 3.11 or newer, found {sys.version.split()[0]}"]
    found, backend = [], environment.keras_backend()
    for names, lowest in [*LOWEST.items(), *([BACKENDS[backend]] if backend in BACKENDS else [])]:
        version = max((version_of(name) for name in names), key=Version)
        if Version(version) < Version(lowest):
            faults.append(f"{names[0]} {lowest} or newer, found {'none' if version == '0' else version}")
        else:
            found.append(f"{names[0]} {version}")
    if faults:
        raise UserError(f"the packages of this machine are too old: expected {'; '.join(faults)}. {WHAT_TO_DO}")
    return found


def version_of(package: str) -> str:
    """The version that is installed; 0 where there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "0"


def measure(name: str, weights: str, precision: str, deterministic: str, seconds: float) -> dict[str, Any]:
    """Trains a network for some steps on one batch, predicts, saves and loads it. In a process of its own."""
    policy = runtime.start(precision, 0, deterministic)
    keras = runtime.load_keras()
    import numpy as np

    from models.finetuning.data.sources import PREDICTION_BATCH
    from models.finetuning.network.build import build, plain_copy
    from models.finetuning.network.network import set_trainable
    from models.finetuning.training.optimisation import make_optimizer, stages

    architecture = zoo.find(name)
    recipe = architecture.recipe
    network = build(architecture, recipe, weights, policy, 0)
    set_trainable(network, recipe, head_only=False)
    network.compile(make_optimizer(recipe, stages(recipe)[-1], policy), recipe.label_smoothing)
    size, count = recipe.image_size, max(recipe.batch_size, PREDICTION_BATCH)
    images = np.random.default_rng(0).integers(0, 256, (count, size.height, size.width, 3), dtype=np.uint8)
    targets = np.eye(NUMBER_OF_CLASSES, dtype=np.float32)[np.arange(recipe.batch_size) % NUMBER_OF_CLASSES]
    losses = [network.train_on_batch(images[: recipe.batch_size], targets)]  # the first step traces and builds
    started = time.monotonic()
    while len(losses) <= STEPS and (time.monotonic() - started < seconds or len(losses) < 2):
        losses.append(network.train_on_batch(images[: recipe.batch_size], targets))
    training = (len(losses) - 1) * recipe.batch_size / (time.monotonic() - started)
    network.predictor.jit_compile = runtime.compiles_with_xla()
    network.predictor.predict_on_batch(images[:PREDICTION_BATCH])
    started = time.monotonic()
    probabilities, _ = network.predictor.predict_on_batch(images[:PREDICTION_BATCH])
    prediction = PREDICTION_BATCH / (time.monotonic() - started)
    memory = runtime.peak_memory()  # of the process, of its GPU; bytes
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        plain_copy(network, architecture, recipe).save(path)
        loaded = keras.saving.load_model(path, compile=False, safe_mode=True).predict_on_batch(images[:8])
    difference = float(np.abs(np.asarray(probabilities)[:8] - loaded).max())
    found = {"training": training, "prediction": prediction, "losses": losses, "difference": difference}
    return found | {"memory": memory}


def measured(name: str, *options: object, limit: float) -> dict[str, Any]:
    """`measure` in another process; {'failed': why} where that fails."""
    code = f"import json; from tools.doctor import measure; print(json.dumps(measure(*{(name, *options)!r})))"
    command = [sys.executable, "-c", code]
    try:
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"failed": f"took longer than {limit:.0f} s"}
    except subprocess.CalledProcessError as error:
        return {"failed": f"status {error.returncode}: {error.stderr.strip().rpartition(chr(10))[2][:300]}"}
    return json.loads(done.stdout.strip().rpartition("\n")[2])


def described_machine(data: Path | None, networks: list[Architecture], devices: list[Device]) -> list[str]:
    """Lines about what is here."""
    from preprocessing import dataset

    try:
        found = "found, with both tables and both image folders" if dataset.locate(data) else "none"
    except UserError as error:
        found = f"a fault: {str(error).partition(': ')[2] or error}"
    try:
        installed = ", ".join(check_installed())
    except UserError as error:
        installed = str(error)
    cached = [one.name for one in networks if pretrained.is_cached(one)]
    unknown = f" (speed not known, estimated as a {GPUS[UNKNOWN_GPU][0]})"
    names = [f"{one.name} {one.kind}{unknown if one.kind and not one.listed else ''}".strip() for one in devices]
    free, total = environment.available_memory() / GIBIBYTE, environment.total_memory() / GIBIBYTE
    memory = f"{free:.0f} of {total:.0f} GiB memory free"
    return [
        f"system     {platform.platform()}, Python {platform.python_version()}",
        f"packages   {installed}",
        f"machine    {environment.cores()} cores, {memory}, {free_bytes(CACHE) / GIBIBYTE:.0f} GiB disk free",
        f"data       {found}",
        f"weights    in Keras's cache: {', '.join(cached) or 'none'} (of {', '.join(one.name for one in networks)})",
        f"GPUs       {', '.join(names) or 'none that the backend computes on'}",
    ]


def full_run(network: Architecture, images_a_second: float, slots: int) -> float:
    """Seconds that five folds on the complete data take at this speed, side by side on so many GPUs."""
    recipe = network.recipe
    share = recipe.image_size.height * recipe.image_size.width / resources.REFERENCE_PIXELS
    rate = images_a_second * resources.TRAINING_COST * network.gigaflops * network.slowdown * 1e9 * share
    counts = COMPLETE_TRAIN_IMAGES, COMPLETE_TEST_IMAGES, FOLDS
    return FOLDS * resources.job_seconds(network, recipe, *counts, rate) / slots


def row(network: Architecture, found: dict[str, Any], slots: int) -> str:
    """A line of the table."""
    if "failed" in found:
        return f"{network.name:<17} failed, {found['failed']}"
    losses, difference = found["losses"], found["difference"]
    good = difference <= LARGEST_DIFFERENCE and all(map(math.isfinite, losses))
    memory = "+".join(f"{memory / GIBIBYTE:.1f}" for memory in found["memory"][: 1 + (slots > 0)])
    speeds = [f"{found[name]:.1f}" for name in ("training", "prediction")]
    cells = [len(losses) - 1, *speeds, f"{losses[0]:.3f}", f"{losses[-1]:.3f}", memory, f"{difference:.4f}"]
    time_of_run = duration(full_run(network, found["training"], max(1, slots)))
    return ROW.format(network.name, str(network.recipe.image_size), *cells, time_of_run, "" if good else "  WRONG")


def main() -> None:
    parser = CommandLine(prog="python -m tools.doctor", description=__doc__)
    parser.add_argument("--models", type=names_in, default=DEFAULT_MODELS, metavar='"A B"', help="[the default ones]")
    parser.add_argument("--data", type=Path, metavar="DIR", help="Kaggle's data folder [found by itself]")
    parser.add_argument("--weights", metavar="W", help="a folder of weights, or none [Keras's cache, else none]")
    parser.add_argument("--precision", default="auto", choices=runtime.PRECISIONS, help="dtype policy [auto]")
    parser.add_argument("--deterministic", default="auto", choices=runtime.DETERMINISM, help="the same bits [auto]")
    parser.add_argument("--seconds", type=number(0.1, 3600), default=30.0, metavar="S", help="of steps, each [30]")
    parser.add_argument("--packages", action="store_true", help="only check that the packages are new enough")
    arguments = parser.parse_args()
    if arguments.packages:
        print("packages " + ", ".join(check_installed()), file=sys.stderr)
        return
    networks, devices = zoo.find_all(arguments.models), resources.find_devices()
    print(*described_machine(arguments.data, networks, devices), sep="\n", flush=True)
    runtime.load_keras()
    versions = ", ".join(f"{name} {version}" for name, version in runtime.versions().items())
    policy, why = runtime.choose_precision(arguments.precision)
    same, reason = runtime.choose_determinism(arguments.deterministic)
    print(f"backend    {versions}\nprecision  {policy} ({why})\nsame bits  {'yes' if same else 'no'} ({reason})")
    print(f"\n{ROW.format(*HEADER, '')}", flush=True)
    failed = False
    for network in networks:
        cached = pretrained.is_cached(network)
        weights = arguments.weights or ("imagenet" if cached else "none")
        options = (weights, arguments.precision, arguments.deterministic, arguments.seconds)
        found = measured(network.name, *options, limit=300 + 4 * arguments.seconds)
        line = masked(row(network, found, len(devices)))
        failed = failed or "failed" in found or line.endswith("WRONG")
        print(line, flush=True)
    print("\nimages a second of steps alone, without reading; full run: 5 folds of the complete data at that speed")
    if failed:
        sys.exit(SOME_FAILED)


if __name__ == "__main__":
    run_command(main)
