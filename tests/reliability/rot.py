"""Changes random bytes of everything that a finished run has left, and of its cache: none may reach a submission.

    python -m tests.reliability.rot --flips 1000 --seed 1

A change keeps size and time, as a failing disk does. What was changed must be refused, or made again with the same
bytes, where the program next uses it. Prints a line for each kind of file; a change that was used unnoticed is printed,
and the exit status is 1.
"""

import argparse
import contextlib
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from common.errors import UserError
from common.files import sha256_of
from common.run_folder import (
    CONFIG,
    FINISHED,
    OUT_OF_FOLD,
    OUT_OF_FOLD_FEATURES,
    TEST,
    TEST_FEATURES,
    FoldFolder,
    RunFolder,
)
from common.settings import checked
from ensemble.blend import RECORD, Request, blend_run
from models.finetuning import architecture as zoo
from models.finetuning.architecture import Bottleneck
from models.finetuning.bottleneck import train_folds
from models.finetuning.fold import train_fold
from models.finetuning.fold_run import FoldRun
from models.finetuning.network import weights as pretrained
from models.finetuning.training import trainer
from pipeline.train import unfinished
from preprocessing import dataset
from preprocessing.folds import ensure_folds, read_folds
from tests.trees import make_tree

MODEL, FOLDS = zoo.find("mobilenet"), (0, 1)
SETTINGS = {"image_size": "32x32", "pooled_layers": "conv_pw_1_relu"}
TRAINING = {"trainable": "from conv_pw_1", "epochs": 1, "batch_size": 8}
READ_BY_BLEND = (OUT_OF_FOLD, TEST, OUT_OF_FOLD_FEATURES, TEST_FEATURES)


class FileKind(NamedTuple):
    """A kind of file."""

    files: list[Path]
    found: Callable[[Path], bool]  # uses a changed file as the program does; True if it was found, or undone


class Run:
    """A finished run of a small network and of a classifier on its features, two folds each, and its blend."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run = folder, RunFolder(folder / "runs" / "tiny")
        make_tree(folder / "data", drivers=4, images_per_class=1)
        self.data = dataset.load(folder / "data", folder / "cache")
        self.table = ensure_folds(self.run.folds, self.data.train, len(FOLDS))
        self.table = self.table.set_index("img").loc[self.data.train["img"]].reset_index()
        self.weights = folder / "weights" / f"{MODEL.name}.weights.h5"
        self.weights.parent.mkdir()
        keras.applications.MobileNet(weights=None, include_top=False).save_weights(self.weights)
        self.weights.with_name(f"{self.weights.name}.sha256").write_text(f"{sha256_of(self.weights)}  of it\n")
        recipe, augmentation = MODEL.settings_for(checked(MODEL.recipe, SETTINGS | TRAINING))
        features = MODEL.bottleneck_settings(False, checked(Bottleneck(), SETTINGS | {"regularisation": 1.0}))
        common: dict[str, Any] = {"weights": str(self.weights.parent), "precision": "float32", "activations": "yes"}
        common |= {"data": folder / "data", "cache": folder / "cache"}
        self.works = {
            name: FoldRun(self.run, name, MODEL, own, seen, **common)
            for name, own, seen in (("mobilenet", recipe, augmentation), ("bottleneck", features, None))
        }
        self.submission = folder / "submissions" / "tiny.csv"
        for name in self.works:
            self.train(name)
        self.blend()

    def train(self, name: str) -> None:
        works = [self.works[name].of_fold(fold) for fold in FOLDS]
        with Path(os.devnull).open("w") as null, contextlib.redirect_stdout(null):
            if name == "bottleneck":
                train_folds(works, self.data, self.table)
            else:
                for work in works:
                    train_fold(work, self.data, self.table)

    def blend(self) -> None:
        """Blends it, whatever was blended before."""
        (self.run.ensemble / RECORD).unlink(missing_ok=True)
        self.blend_if_changed()

    def blend_if_changed(self) -> None:
        """Blends it unless the last blend is of the same files."""
        sample = self.folder / "data" / "sample_submission.csv"
        blend_run(Request(self.run.path, sample, self.submission))

    def tables(self) -> dict[Path, bytes]:
        """The prediction tables of all folds."""
        found = [folder / name for folder in self.run.fold_folders() for name in (OUT_OF_FOLD, TEST)]
        return {path: path.read_bytes() for path in found}


def kinds(own: Run) -> dict[str, FileKind]:
    """Every kind of file, and how the program uses it."""
    blended = [path for path in own.run.ensemble.iterdir() if path.name != RECORD]
    expected, folds = own.tables(), read_folds(own.run.folds, own.data.train)
    sums = {folder: (folder.finished() or {})["sha256"] for folder in own.run.fold_folders()}
    state = own.folder / "state.npz"
    small = keras.Sequential([keras.Input((4,)), keras.layers.Dense(10)])
    trainer.save_checkpoint(state, trainer.Progress(best=[np.arange(99.0)]), small.variables, [])

    def of_cache(entries: str, name: str) -> FileKind:
        """The model trained again gives the same bytes."""

        def same(path: Path) -> bool:
            for fold in FOLDS:
                shutil.rmtree(own.run.fold(name, fold).path)
            own.train(name)
            return own.tables() == expected

        return FileKind(sorted((own.folder / "cache").glob(f"{entries}/[!.]*")), same)

    def of_output(path: Path) -> bool:
        """Whoever reads it refuses it, and the fold is not finished any more."""
        folder, record = folder_of(path), (path.parent / FINISHED).read_bytes()
        try:
            if path.name == CONFIG:
                return folder.fold in unfinished(own.works[folder.model], FOLDS, own.data)
            reads = own.blend if path.name in READ_BY_BLEND else lambda: folder.verified(path.name)
            return refused(reads) and not folder.is_finished()
        finally:
            (path.parent / FINISHED).write_bytes(record)

    def of_record(path: Path) -> bool:
        """The fold is not finished, or its outputs do not match, or what has changed is no checksum."""
        folder = folder_of(path)
        record = folder.finished()
        changed = record and any(sha256_of(folder / name) != recorded for name, recorded in record["sha256"].items())
        return record is None or bool(changed) or record["sha256"].keys() == sums[folder].keys()

    def of_blend(path: Path) -> bool:
        """The same command makes it again."""
        content = path.read_bytes()
        own.blend_if_changed()
        return path.read_bytes() != content

    def of_weights(path: Path) -> bool:
        pretrained._checked_hash.cache_clear()
        return refused(lambda: pretrained.identity(MODEL, str(path.parent)))

    def of_folds(path: Path) -> bool:
        return refused(lambda: read_folds(path, own.data.train)) or read_folds(path).equals(folds)

    outputs = [folder / name for folder, listed in sums.items() for name in listed]
    found = {
        "cached images": of_cache("images/*", "mobilenet"),
        "cached activations": of_cache("activations/*_conv_*", "mobilenet"),
        "cached features": of_cache("activations/*_features_*", "bottleneck"),
        "weights": FileKind([own.weights], of_weights),
        "checkpoint": FileKind([state], lambda path: refused(lambda: trainer.load_checkpoint(path))),
        "fold table": FileKind([own.run.folds], of_folds),
        FINISHED: FileKind([folder / FINISHED for folder in sums], of_record),
        "blend and submission": FileKind([*blended, own.submission], of_blend),
    }
    for name in sorted({path.name for path in outputs}):
        found[name] = FileKind([path for path in outputs if path.name == name], of_output)
    return found


def folder_of(path: Path) -> FoldFolder:
    return FoldFolder(path.parents[2], path.parts[-3], int(path.parent.name.removeprefix("fold_")))


def refused(use: Callable[[], object]) -> bool:
    """Whether using something is our own error."""
    try:
        use()
    except UserError:
        return True
    return False


def flip(path: Path, draw: random.Random) -> int:
    """Changes one byte of a file, which keeps its size and time; returns its place."""
    status = path.stat()
    place = draw.randrange(status.st_size)
    with path.open("rb+") as stream:
        stream.seek(place)
        value = stream.read(1)[0] ^ draw.randrange(1, 256)
        stream.seek(place)
        stream.write(bytes([value]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return place


def rot(every: dict[str, FileKind], flips: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Changes bytes one at a time, the kinds in turn; returns how many of each were found, and what was not."""
    draw = random.Random(seed)
    found: Counter[str] = Counter()
    missed = []
    for number in range(flips):
        name = list(every)[number % len(every)]
        path = draw.choice(every[name].files)
        content, status = path.read_bytes(), path.stat()
        place = flip(path, draw)
        with Path(os.devnull).open("w") as null, contextlib.redirect_stderr(null):
            if every[name].found(path):
                found[name] += 1
            else:
                missed.append(f"{name}: {path.name}, byte {place:,}, change {number}")
        path.write_bytes(content)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return found, missed


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.rot", description=__doc__)
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        found, missed = rot(kinds(Run(Path(place))), arguments.flips, arguments.seed)
    for name, count in found.items():
        print(f"{name}: {count} found")
    print(f"{sum(found.values()):,} of {arguments.flips:,} changes found")
    for line in missed:
        print(f"MISSED {line}")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
