"""Checks the command line of run_all.sh as a whole, says what the run will need, and resolves each stage's options.

    python -m tools.plan --quick --models "vgg16 resnet50"

Prints shell assignments for run_all.sh on standard output, and what a person reads on standard error.
"""

import argparse
import contextlib
import dataclasses
import os
import shlex
import sys
from pathlib import Path

from common.competition import (
    COMPLETE_TEST_IMAGES,
    COMPLETE_TRAIN_IMAGES,
    DRIVER_LIST,
    SAMPLE_SUBMISSION,
    held_out_labels_path,
)
from common.errors import UserError, run_command
from common.files import read_record, written_whole
from common.finished import FINISHED
from common.run_folder import REPOSITORY, RUNS, SUBMISSIONS, fold_folder, run_folder
from common.settings import CommandLine, add_settings, as_options, chosen, names_in
from ensemble.options import Options
from ensemble.score import read_labels
from models.finetuning import architecture as zoo
from models.finetuning import command, needs, runtime
from models.finetuning.devices import find_devices
from models.finetuning.network import weights
from models.finetuning.processes import default_jobs
from models.finetuning.recipe import Kind, Recipe
from models.finetuning.training import tracking as watching
from preprocessing.augmentation_settings import Augmentation
from preprocessing.folds import number_of_folds
from tools import schedule
from tools.timetable import described, read_budget, timetable

DEFAULT_MODELS = "vgg16 inception_v3 resnet50"


def make_parser() -> CommandLine:
    """Every option of every stage."""
    parser = CommandLine(
        prog="./run_all.sh",
        description="From the competition's photographs to a calibrated, blended submission: every stage in order.\n"
        "Without any data it renders a demo set and runs on that.",
        epilog="The recipe's defaults differ by architecture: python models/NAME.py --help shows them.",
    )
    parser.add_argument(
        "--models", type=names_in, default=DEFAULT_MODELS, metavar='"A B"', help=f"architectures [{DEFAULT_MODELS}]"
    )
    parser.add_argument("--demo", action="store_true", help="the rendered demo set, whatever data there is")
    parser.add_argument("--download", action="store_true", help="get the data from Kaggle first, where there is none")
    parser.add_argument(
        "--time-budget",
        type=read_budget,
        metavar="T",
        help="train what can be finished, blend that: 8h30m [none]",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would run, when and where, and stop")
    parser.add_argument("--allow-missing", action="store_true", help="blend although folds are missing, and say so")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="score the submission on these test labels")
    parser.add_argument(
        "--submissions", type=Path, default=SUBMISSIONS, metavar="DIR", help="folder of the CSV [submissions]"
    )
    command.add_run_options(parser)
    command.add_training_options(parser)
    add_settings(parser, Options(), "blending")
    command.add_recipe_options(parser, Recipe(), Augmentation())
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    _resolve_paths(arguments)
    architectures = zoo.find_all(arguments.models)
    models = [architecture.name for architecture in architectures]
    for architecture in architectures:
        weights.weights_file(architecture, arguments.weights)
    data, source = _data(arguments)
    demo = source == "demo"
    quick = arguments.quick or demo
    run = arguments.run or ("demo" if demo else "quick" if quick else "full")
    run_path = run_folder(run, arguments.runs)
    folds = number_of_folds(run_path, arguments.folds, arguments.folds_file, 2 if quick else 5)
    left = {name: sum(not _finished(run_path, name, fold) for fold in range(folds)) for name in models}
    chosen_weights = _weights([a for a in architectures if left[a.name]], arguments.weights, run_path if demo else None)
    watching.check_installed(arguments.log_to)
    if arguments.labels:
        read_labels(arguments.labels)
    for folder in (arguments.runs, arguments.cache, arguments.submissions):
        _check_writable(folder)

    kind = Kind(scratch=chosen_weights == "none", quick=quick)
    given = chosen(arguments, Recipe) | chosen(arguments, Augmentation)
    settings = [(a, a.settings_for(kind, given)[0], left[a.name]) for a in architectures]
    train_images, test_images = _counts(data, source)
    memory = max(needs.fold_memory(a, recipe) for a, recipe, _ in settings)
    if arguments.time_budget:
        places = schedule.find_places(arguments.jobs, quick, len(models) * folds, memory)
    else:
        places = schedule.Places(arguments.jobs or default_jobs(quick, folds, memory), tuple(find_devices()))
    estimate = needs.estimate(
        settings,
        train_images=train_images,
        test_images=test_images,
        folds=folds,
        bfloat16=runtime.expects_bfloat16(arguments.precision),
        jobs=arguments.jobs or needs.at_a_time(places.number, memory),
        devices=places.devices,
    )
    tell(f"run      {run}: {' '.join(models)} on {folds} folds of {data} ({train_images:,} + {test_images:,} images)")
    if any(left.values()):
        tell(needs.check(estimate, run_path, arguments.cache))
    if arguments.time_budget or arguments.dry_run:
        unfinished = [
            (a, recipe, fold)
            for a, recipe, _ in settings
            for fold in range(folds)
            if not _finished(run_path, a.name, fold)
        ]
        tell(_timetable(unfinished, run_path, arguments, places, (train_images, test_images, folds)))
    if arguments.dry_run:
        tell("nothing was started (--dry-run)")

    resolved = Resolved(data, source, run, folds, models, chosen_weights, quick)
    for name, value in stage_variables(resolved, arguments).items():
        # An array for a list; standard output is evaluated by the shell.
        print(f"{name}={shlex.quote(value)}" if isinstance(value, str) else f"{name}=({shlex.join(value)})")


@dataclasses.dataclass(frozen=True)
class Resolved:
    """What the command line and the machine come to.

    Attributes:
        source: of the data: 'found', 'download' or 'demo'.
        models: architectures.
        weights: 'imagenet', 'none' or a folder.
    """

    data: Path
    source: str
    run: str
    folds: int
    models: list[str]
    weights: str
    quick: bool


def stage_variables(resolved: Resolved, arguments: argparse.Namespace) -> dict[str, str | list[str]]:
    """The shell variables of run_all.sh by name: texts, and the options of each stage."""
    demo = resolved.source == "demo"
    runs = [] if arguments.runs.resolve() == RUNS else ["--runs", str(arguments.runs)]
    shared = ["--cache", str(arguments.cache), *(["--skip-broken"] if arguments.skip_broken else [])]
    trainer = [*runs, *shared, "--weights", resolved.weights, "--precision", arguments.precision]
    trainer += ["--seed", str(arguments.seed), "--workers", str(arguments.workers)]
    trainer += ["--jobs", str(arguments.jobs)] if arguments.jobs else []
    trainer += ["--activations", arguments.activations] if arguments.activations != "auto" else []
    trainer += ["--log-to", ",".join(arguments.log_to)] if arguments.log_to else []
    trainer += ["--cache-limit", str(arguments.cache_limit), *(["--quick"] if resolved.quick else [])]
    trainer += as_options(chosen(arguments, Recipe) | chosen(arguments, Augmentation))
    labels = arguments.labels or (held_out_labels_path(resolved.data) if demo else None)
    blend = [*runs, *(["--allow-missing"] if arguments.allow_missing or arguments.time_budget else [])]
    blend += as_options(chosen(arguments, Options))
    blend += ["--labels", str(labels)] if labels else []
    blend += ["--submissions", str(arguments.submissions)] if arguments.submissions.resolve() != SUBMISSIONS else []
    own = arguments.folds_file
    own_folds = ["--folds-file", str(own)] if own else ["--folds", str(resolved.folds)]
    return {
        "DATA": str(resolved.data),
        "RUN": resolved.run,
        "LOCK": str(arguments.runs / f".{resolved.run}.lock"),
        "FOLDS": str(resolved.folds),
        "SEED": str(arguments.seed),
        "CACHE": str(arguments.cache),
        "DOWNLOAD": "yes" if resolved.source == "download" else "no",
        "DEMO": "yes" if demo else "no",
        "DRY_RUN": "yes" if arguments.dry_run else "no",
        "TIME_BUDGET": f"{arguments.time_budget:.0f}s" if arguments.time_budget else "none",
        "RUNS_OPTIONS": runs,
        "MODELS": resolved.models,
        "CHECK_OPTIONS": shared,
        "FOLDS_OPTIONS": [*runs, *shared, *own_folds],
        "MODEL_OPTIONS": trainer,
        "ENSEMBLE_OPTIONS": blend,
    }


def _resolve_paths(arguments: argparse.Namespace) -> None:
    """Makes relative paths absolute: run_all.sh leaves the folder that they were typed in."""
    typed_in = Path(os.environ.get("CALLED_FROM", "."))
    for name, value in vars(arguments).items():
        if isinstance(value, Path):
            setattr(arguments, name, _from_here(typed_in / value.expanduser()))
    if arguments.weights not in ("none", "imagenet"):
        arguments.weights = str(_from_here(typed_in / Path(arguments.weights).expanduser()))


def _from_here(path: Path) -> Path:
    """The path as short as it can be said in the repository's root."""
    path = Path(os.path.abspath(path))  # noqa: PTH100  (links stay as they were typed)
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _check_writable(folder: Path) -> None:
    with written_whole(folder / ".probe"):
        pass
    (folder / ".probe").unlink(missing_ok=True)


def tell(text: str) -> None:
    """Says something to the person; standard output belongs to the shell."""
    print(text, file=sys.stderr)


def _data(arguments: argparse.Namespace) -> tuple[Path, str]:
    """The data folder, and 'found', 'download' or 'demo'."""
    from preprocessing import dataset, demo

    if arguments.demo:
        return demo.demo_root(arguments.cache, arguments.seed), "demo"
    root = dataset.locate(arguments.data)
    if root is not None:
        return root, "found"
    if arguments.download:
        return REPOSITORY / "data", "download"
    tell(
        "There is no competition data (--data, $STATEFARM_DATA, Kaggle's mounts, data/), so this runs the whole\n"
        "pipeline on a demo set that it renders. For the real thing: ./run_all.sh --download (needs a Kaggle account)."
    )
    return demo.demo_root(arguments.cache, arguments.seed), "demo"


def _timetable(
    unfinished: list[tuple[zoo.Architecture, Recipe, int]],
    run: Path,
    arguments: argparse.Namespace,
    places: schedule.Places,
    counts: tuple[int, int, int],
) -> str:
    """What begins when, with a time budget or as if there were all the time in the world."""
    record = schedule.Record(run, places.kind)
    rate = places.rate(runtime.expects_bfloat16(arguments.precision))
    tasks = [
        schedule.task_of(run, a.name, fold, needs.piece_seconds(a, recipe, *counts, rate), record)
        for a, recipe, fold in unfinished
    ]
    if not arguments.time_budget:
        return described(*timetable(tasks, record.pace(), places.number, None), places.names)
    clock = schedule.Clock.of(arguments.time_budget)
    entries, left_out = timetable(tasks, record.pace(), places.number, clock.left)
    ends = clock.passed + max([entry.ends for entry in entries], default=0.0)
    return (
        f"{described(entries, left_out, places.names, clock.passed)}\n"
        f"clock    {needs.duration(clock.budget)}, {needs.duration(clock.passed)} of them have passed; training "
        f"ends at {schedule.clock_time(ends)}, margins included, and the blend follows"
    )


def _finished(run: Path, model: str, fold: int) -> bool:
    return (fold_folder(run, model, fold) / FINISHED).exists()


def _weights(unfinished: list[zoo.Architecture], asked: str, demo_run: Path | None) -> str:
    """The weights to use: as asked, but the demo falls back to none where the published ones cannot be had.

    Args:
        unfinished: the architectures that still have something to train.
        demo_run: the run's folder, if it is the demo's; a demo goes on with what it was begun with.
    """
    if demo_run is not None and asked == "imagenet":
        for config in sorted(demo_run.glob("*/fold_*/config.json")):
            with contextlib.suppress(UserError, KeyError, TypeError):  # that fold is made again
                begun_with = read_record(config)["settings"]["weights"]
                if begun_with == "none" and unfinished:
                    tell("This demo was begun from random weights (--weights none), and goes on from them.")
                return begun_with if begun_with in ("imagenet", "none") else asked
    try:
        for architecture in unfinished:
            weights.check_available(architecture, asked)
    except UserError:
        if demo_run is None or asked != "imagenet":
            raise
        tell("The ImageNet weights cannot be had here, so the demo starts from random ones (--weights none).")
        return "none"
    return asked


def _counts(data: Path, source: str) -> tuple[int, int]:
    """Numbers of labelled and of test images, by the lines of the tables."""
    if source == "download":
        return COMPLETE_TRAIN_IMAGES, COMPLETE_TEST_IMAGES
    if source == "demo":
        from preprocessing import demo

        return demo.demo_counts()
    return tuple(_lines(data / name) - 1 for name in (DRIVER_LIST, SAMPLE_SUBMISSION))  # type: ignore[return-value]


def _lines(path: Path) -> int:
    with path.open("rb") as stream:
        return max(1, sum(1 for line in stream if line.strip()))


if __name__ == "__main__":
    run_command(main)
