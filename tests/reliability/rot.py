"""Changes random bytes of everything that a finished run has left, and of its cache: each must be found before use.

    python -m tests.reliability.rot --flips 1000 --seed 1

A change keeps size and time, as a failing disk does.
Prints a line for each kind of file; a change that was used unnoticed is printed, and the exit status is 1.
"""

import argparse
import contextlib
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import keras
import numpy as np

from common.arrays import open_array, write_array
from common.errors import UserError
from common.files import read_record, sha256_of
from common.finished import DAMAGED, FINISHED, damaged_outputs
from common.settings import ImageSize
from common.tables import write_predictions
from ensemble.blend_run import Request, blend_run
from ensemble.options import Options
from models.finetuning import architecture as zoo
from models.finetuning import runtime
from models.finetuning.data.activations import PLAIN, ActivationStore
from models.finetuning.data.features import FeatureStore
from models.finetuning.network import weights as pretrained
from models.finetuning.network.build import build
from models.finetuning.network.frozen import split
from models.finetuning.network.network import set_trainable
from models.finetuning.piece import Piece, begin, finish, is_finished
from models.finetuning.recipe import Kind
from models.finetuning.training import checkpoint
from preprocessing import dataset
from preprocessing.batches import plain_batches
from preprocessing.folds import ensure_folds, read_folds
from preprocessing.images import ImageStore
from tests.trees import make_tree
from tools.finished import finished_pieces
from tools.networks import load
from tools.verify import damaged_blend, damaged_pieces

SIZE = ImageSize(32, 40)
MODEL = "mobilenet"


@dataclass(frozen=True)
class FileKind:
    """A kind of file.

    Attributes:
        files: of this kind.
        found: uses a file that was changed, as the program does; True if the change was found.
    """

    files: list[Path]
    found: Callable[[Path], bool]


def make_run(folder: Path) -> None:
    """A finished run of two folds and its blend; the networks are small and their predictions drawn at random."""
    make_tree(folder / "data", drivers=4, images_per_class=1)
    data = dataset.load(folder / "data", folder / "cache", progress=False)
    run = folder / "runs" / "tiny"
    table = ensure_folds(run, data.train, 2)
    path = folder / "weights" / f"{MODEL}.weights.h5"
    path.parent.mkdir()
    with h5py.File(path, "w") as stored:
        stored.create_dataset(
            "layers/kernel", data=np.zeros(zoo.find(MODEL).parameters, np.float32), compression="gzip"
        )
    path.with_name(f"{path.name}.sha256").write_text(f"{sha256_of(path)}  {path.name}\n")
    generator = np.random.default_rng(0)
    for number in range(2):
        work = piece_of(run, number)
        work.folder.mkdir(parents=True)
        begin(work, work.settings(data.test), {}, "float32")
        held_out = table.loc[table["fold"] == number, "img"].tolist()
        for name, images in (("out_of_fold", held_out), ("test", data.test)):
            write_predictions(work.folder / f"{name}.csv", images, generator.dirichlet(np.ones(10), len(images)))
            features = generator.normal(size=(len(images), 8)).astype(np.float16)
            np.save(work.folder / f"{name}_features.npy", features, allow_pickle=False)
        (work.folder / "history.csv").write_text("epoch,held_out_log_loss\n1,2.3\n")
        images = keras.Input((SIZE.height, SIZE.width, 3), dtype="uint8")
        pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(images))
        keras.Model(images, keras.layers.Dense(10, "softmax")(pooled)).save(work.folder / "model.keras")
        finish(work, {"log_loss": 2.3, "accuracy": 0.1, "seconds": 1.0})
    sample, submission = folder / "data" / "sample_submission.csv", folder / "submissions" / "tiny.csv"
    blend_run(Request(run, sample, submission, options=Options(figures=False)))


def piece_of(run: Path, number: int) -> Piece:
    recipe, _ = zoo.find(MODEL).settings_for(Kind(), {"image_size": SIZE})
    return Piece(run, MODEL, zoo.find(MODEL), recipe, number, str(run.parent.parent / "weights"), "auto", 0, 1)


def kinds(folder: Path) -> dict[str, FileKind]:
    """Every kind of file, and who uses it."""
    run = folder / "runs" / "tiny"
    pieces = sorted((run / MODEL).glob("fold_*/"))
    data = dataset.load(folder / "data", folder / "cache", progress=False)
    images = image_store(folder, data)
    images.prepare(1)
    truth = [np.array(images.read(row)) for row in range(len(images))]
    runtime.start("float32", 0)
    recipe, _ = zoo.find("vgg16").settings_for(Kind(), {"image_size": SIZE, "trainable": "from block3"})
    network = build(zoo.find("vgg16"), recipe, "none", "float32", 0)
    set_trainable(network, recipe, head_only=False)
    parts = split(network, recipe)
    assert parts is not None
    rows = np.arange(len(images))
    photographs = image_store(folder, data)  # decoded when they are read, so never those that are changed below
    store = ActivationStore(folder / "cache", "rot", {}, parts.trunk, photographs, 1)
    part = store.part(PLAIN, photographs, rows)
    activations = np.concatenate([a[:n].copy() for a, n in plain_batches(part, rows, 16, 1)])
    features = FeatureStore("rot", {}, [images], folder / "cache", 2**30)
    made = np.random.default_rng(0).normal(size=(len(images), 24)).astype(np.float32)
    write_array(features.path, made)
    state = folder / "state.npz"
    checkpoint.save(state, checkpoint.Progress(best=[made]), network.head, None)

    def of_images(path: Path) -> bool:
        own = image_store(folder, data)
        own.prepare(1)
        same = all(np.array_equal(own.read(row), truth[row]) for row in range(len(own)))
        return same and not path.exists()  # deleted, so that the next process makes it again

    def of_activations(path: Path) -> bool:
        content = path.read_bytes()
        part = store.part(PLAIN, photographs, rows)
        found = np.concatenate([a[:n].copy() for a, n in plain_batches(part, rows, 16, 1)])
        return np.allclose(found, activations, atol=1e-5) and path.read_bytes() != content

    def of_output(path: Path) -> bool:
        lines = damaged_pieces(run)
        aside = (path.parent / DAMAGED).exists() and not (path.parent / FINISHED).exists()
        if (path.parent / DAMAGED).exists():
            (path.parent / DAMAGED).replace(path.parent / FINISHED)
        return aside and any(path.name in line for line in lines)

    def of_network(path: Path) -> bool:
        found = refused(lambda: load(next(p for p in finished_pieces(run) if p.network == path)))
        (path.parent / DAMAGED).replace(path.parent / FINISHED)
        return found

    def of_record(path: Path) -> bool:
        done = is_finished(piece_of(run, int(path.parent.name[-1])), kept[path.parent / "config.json"])
        return not done or bool(damaged_outputs(path.parent)) or read_record(path)["sha256"] == checksums[path]

    def of_folds(path: Path) -> bool:
        return refused(lambda: read_folds(path, data.train)) or read_folds(path).equals(folds)

    def of_weights(path: Path) -> bool:
        pretrained._checked_hash.cache_clear()
        return refused(lambda: pretrained.identity(zoo.find(MODEL), str(folder / "weights")))

    kept = {path: read_record(path)["settings"] for path in run.rglob("config.json")}
    checksums = {path: read_record(path)["sha256"] for path in run.rglob(FINISHED)}
    folds = read_folds(run / "folds.csv")
    outputs = [path for piece in pieces for path in piece.iterdir()]

    def named(*names: str) -> list[Path]:
        return [path for path in outputs if path.name in names]

    blend = [path for path in (run / "ensemble").iterdir() if path.is_file() and path.suffix != ".json"]
    return {
        "cached images": FileKind(sorted(images.folder.glob("*.npy")), of_images),
        "cached activations": FileKind(sorted(store.folder.glob("*.npy")), of_activations),
        "cached features": FileKind([features.path], lambda path: open_array(path, made.shape, made.dtype) is None),
        "weights": FileKind([folder / "weights" / f"{MODEL}.weights.h5"], of_weights),
        "checkpoint": FileKind([state], lambda path: refused(lambda: checkpoint.load(path))),
        "prediction tables": FileKind(named("out_of_fold.csv", "test.csv"), of_output),
        "features": FileKind(named("out_of_fold_features.npy", "test_features.npy"), of_output),
        "history": FileKind(named("history.csv"), of_output),
        "networks": FileKind(named("model.keras"), of_network),
        "config.json": FileKind(named("config.json"), of_output),
        "checksums in finished.json": FileKind(named(FINISHED), of_record),
        "fold table": FileKind([run / "folds.csv"], of_folds),
        "blend and submission": FileKind(
            [*blend, folder / "submissions" / "tiny.csv"], lambda path: bool(damaged_blend(run))
        ),
    }


def image_store(folder: Path, data: dataset.Dataset) -> ImageStore:
    paths = [data.train_path(row.img, row.classname) for row in data.train.itertuples()]
    return ImageStore(paths, SIZE, folder / "cache", data.fingerprint, 2**30)


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
        folder = Path(place)
        begun = time.monotonic()
        make_run(folder)
        every = kinds(folder)
        print(f"a finished run: {time.monotonic() - begun:.0f} s", flush=True)
        begun = time.monotonic()
        found, missed = rot(every, arguments.flips, arguments.seed)
    for name, count in found.items():
        print(f"{name}: {count} found")
    print(f"{sum(found.values()):,} of {arguments.flips:,} changes found, {time.monotonic() - begun:.0f} s")
    for line in missed:
        print(f"MISSED {line}")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
