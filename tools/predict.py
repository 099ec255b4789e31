"""What the networks of a run say of your own photographs and videos.

    python -m tools.predict --run full photo.jpg
    python -m tools.predict --run full holiday/ drive.mp4 --out table.csv --annotate annotated/
    python -m tools.predict --run full --model inception_v3 --fold 0 drive.mp4       # one network is faster

The mean of all finished networks of the run, unless --model or --fold choose some. The networks know one view: from
where the passenger sits, the driver from the side, the wheel at the right of the picture. Of other views they say
something too, but it means nothing. The table is img,c0,...,c9; frames of a video are named VIDEO@SECONDS.

Files of a folder that cannot be read are left out, listed and counted. Of a damaged video the frames that can be
decoded are predicted; the command says how many are missing, and its exit status is 3.
"""

from __future__ import annotations

import argparse
import itertools
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from common.competition import CLASSES
from common.errors import SOME_FAILED, UserError, named, progress_bar, run_command
from common.files import written_whole
from common.run_folder import CONFIG, NETWORK, RUNS, FoldFolder, RunFolder
from common.settings import CommandLine, ImageSize, names_in, nearest, number
from models.finetuning import runtime
from preprocessing.download import unpacked_bytes
from preprocessing.settings import WHOLE

if TYPE_CHECKING:
    import numpy as np

    from tools.pictures import Found, Video

    See = Callable[[ImageSize, str], np.ndarray]  # size and crop -> a picture as a network wants it

MOST_BYTES = 2 * 2**30  # of a network; the largest here, VGG19, has 80 MB
MOST_AT_ONCE = 16  # pictures; small, so that what was found appears soon
MOST_LINES = 20  # of photographs on the terminal
SMOOTHED = 3  # samples of a video whose mean is shown; the table has each as it is
WORTH_SAYING = 0.05  # probability of a second class
Item = TypeVar("Item")


class IncompleteError(UserError):
    """All that could be predicted was, but parts of videos are missing."""

    status = SOME_FAILED


def main() -> None:
    parser = CommandLine(prog="python -m tools.predict", description=__doc__)
    parser.add_argument("pictures", type=Path, nargs="+", metavar="PICTURE", help="photographs, videos, folders")
    add_choice(parser)
    parser.add_argument("--out", type=Path, metavar="CSV", help="write a prediction table")
    parser.add_argument("--annotate", type=Path, metavar="DIR", help="write copies with the probabilities beside them")
    every = "seconds between frames seen, 0 for all [0.5]"
    parser.add_argument("--every", type=number(0, 3600), default=0.5, metavar="S", help=every)
    arguments = parser.parse_args()
    folds = chosen(arguments)

    import numpy as np

    from common.tables import write_predictions
    from tools.pictures import find

    found = find(arguments.pictures)
    paths = [photograph.path for photograph in found.photographs] + [video.path for video in found.videos]
    for path in paths if arguments.annotate else ():
        if path.resolve().is_relative_to(arguments.annotate.resolve()):
            raise UserError(f"--annotate {arguments.annotate}: {path} lies in it. Choose another folder.")
    networks, started = Networks(folds, MOST_AT_ONCE if found.videos else len(found.photographs)), time.monotonic()
    tables = [_photographs(found, networks, arguments.annotate)] if found.photographs else []
    tables += [_video(video, networks, arguments) for video in found.videos]
    names = [name for own, _ in tables for name in own]
    found.require(names)
    pictures, by = f"{len(names):,} picture{'s' * (len(names) > 1)}", f"{len(folds)} network{'s' * (len(folds) > 1)}"
    print(f"\n{pictures}, {(time.monotonic() - started) / len(names):.3f} s each, by {by}")
    if arguments.out:
        write_predictions(arguments.out, names, np.concatenate([table for _, table in tables]))
    for line in filter(None, (arguments.out, arguments.annotate, found.summary())):
        print(line)
    if incomplete := [f"{video.name} ({video.missing()})" for video in found.videos if video.missing()]:
        raise IncompleteError(
            f"parts of {len(incomplete)} video{'s' * (len(incomplete) > 1)} are missing, the rest was predicted: "
            f"{named(incomplete)}. Copy the originals again."
        )


def add_choice(parser: CommandLine) -> None:
    """The options that choose among the networks of a run."""
    parser.add_argument("--run", required=True, metavar="NAME", help="the run whose networks are used")
    parser.add_argument("--runs", type=Path, default=RUNS, metavar="DIR", help="folder of all runs [runs]")
    # One word each, since several would swallow the pictures behind them.
    parser.add_argument("--model", type=names_in, default=[], metavar='"A B"', help="only these models of it [all]")
    parser.add_argument("--fold", type=names_in, default=[], metavar='"0 1"', help="only networks of these folds [all]")


def chosen(arguments: argparse.Namespace) -> list[FoldFolder]:
    """The fold runs that the options of `add_choice` name."""
    return finished_folds(RunFolder.existing(arguments.run, arguments.runs), arguments.model, arguments.fold)


def finished_folds(run: RunFolder, models: Sequence[str] = (), folds: Sequence[str] = ()) -> list[FoldFolder]:
    """The finished fold runs, by model and fold; only those that are named; a UserError where there are none such."""
    found = run.finished()
    if not found:
        started = sorted({folder.model for folder in run.fold_folders() if folder.exists(CONFIG)})
        hint = f" Started, but not finished: {named(started)}." if started else ""
        raise UserError(f"{run.path} holds no finished model.{hint} Train one: python models/vgg16.py --run {run.name}")
    for attribute, asked in (("model", models), ("fold", folds)):
        names = list(dict.fromkeys(str(getattr(folder, attribute)) for folder in found))
        for name in asked:
            if name not in names:
                hint = nearest(name, names) or "."
                raise UserError(
                    f"--{attribute} {name}: not finished in {run.path}{hint} There are: {named(names, 10)}."
                )
        found = [folder for folder in found if not asked or str(getattr(folder, attribute)) in asked]
    return found


def seen_by(fold: FoldFolder) -> tuple[ImageSize, str]:
    """The size and the part (crop) of a photograph that a network expects."""
    settings = fold.settings()
    try:
        return ImageSize.parse(str(settings["image_size"])), str(settings.get("crop", WHOLE))
    except (LookupError, ValueError) as error:
        raise UserError(f"{fold / CONFIG}: expected an image_size such as 160x208: {error}") from error


class Networks:
    """Networks of finished fold runs, which see `batch` pictures at once; fewer are filled up, to compile once."""

    def __init__(self, folds: Sequence[FoldFolder], batch: int = MOST_AT_ONCE) -> None:
        self.batch = min(batch, MOST_AT_ONCE)
        self.networks = [(fold.model, load(fold), *seen_by(fold)) for fold in folds]
        self.predict([])  # compiles

    def predict(self, sees: Sequence[See]) -> np.ndarray:
        """The mean over models of the mean over folds, as in the blend with equal weights.

        Shape (pictures, 10), float64, rows summing to 1, of at most `batch` pictures.
        """
        import numpy as np

        by_model: dict[str, list[np.ndarray]] = {}
        images: dict[tuple[ImageSize, str], np.ndarray] = {}
        for model, network, size, crop in self.networks:
            if (size, crop) not in images:
                images[size, crop] = np.zeros((self.batch, size.height, size.width, 3), np.uint8)
                for place, see in enumerate(sees):
                    images[size, crop][place] = see(size, crop)
            probabilities = np.asarray(network.predict_on_batch(images[size, crop]), np.float64)
            by_model.setdefault(model, []).append(probabilities[: len(sees)])
        mean = np.mean([np.mean(tables, axis=0) for tables in by_model.values()], axis=0)
        return mean / mean.sum(axis=1, keepdims=True)


def in_batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Parts of at most `size`, in order."""
    waiting = iter(items)
    while part := list(itertools.islice(waiting, size)):
        yield part


def load(fold: FoldFolder) -> Any:
    """The network of a fold run: RGB uint8 images -> ten probabilities; a UserError where the file is damaged."""
    path = fold.verified(NETWORK)
    if zipfile.is_zipfile(path) and unpacked_bytes(path) > MOST_BYTES:
        raise UserError(f"{path} would take more than {MOST_BYTES:,} bytes unpacked: no network of ours does.")
    keras = runtime.load_keras()
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # zip, JSON and HDF5 readers each fail in their own way on damaged bytes
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be loaded ({reason}). Restore it, or train that again.") from error


def _photographs(found: Found, networks: Networks, annotate: Path | None) -> tuple[list[str], np.ndarray]:
    """Predicts, prints a line for each of the first ones, and writes annotated copies."""
    import numpy as np

    from preprocessing.images import encoded
    from tools.pictures import Photograph, class_words, with_probabilities

    photographs = found.photographs
    width, many = max(len(photograph.name) for photograph in photographs), len(photographs) > MOST_LINES
    names, parts = list[str](), [np.empty((0, len(CLASSES)))]
    with progress_bar(len(photographs), "predicting", many) as bar:
        for batch in in_batches(photographs, networks.batch):
            bar.update(len(batch))
            try:
                probabilities = networks.predict([photograph.seen for photograph in batch])
            except UserError:
                batch = found.only(batch, Photograph.whole)
                probabilities = networks.predict([photograph.seen for photograph in batch])
            for photograph, row in zip(batch, probabilities, strict=True):
                if not many:
                    print(f"{photograph.name.ljust(width)}   {verdict(row)}")
                if annotate:
                    picture = with_probabilities(photograph.whole(), row, photograph.name)
                    with written_whole(annotated_path(annotate, photograph.name, ".jpg")) as temporary:
                        temporary.write_bytes(encoded(picture))
            names += [photograph.name for photograph in batch]
            parts.append(probabilities)
    table = np.concatenate(parts)
    for place in range(len(CLASSES)) if many else ():
        part = table[table.argmax(axis=1) == place, place]
        if len(part):
            print(f"{len(part):>8,}  {class_words(place):<32}  {part.mean():.0%} sure on average")
    return names, table


def _video(video: Video, networks: Networks, arguments: argparse.Namespace) -> tuple[list[str], np.ndarray]:
    """Predicts samples of a video, prints what happens when, and writes an annotated copy."""
    import numpy as np
    import pandas as pd

    from preprocessing.images import fitted
    from tools.pictures import clock, write_annotated

    times, parts = list[float](), []
    for batch in in_batches(video.frames_every(arguments.every), networks.batch):
        times += [time for time, _ in batch]
        parts.append(networks.predict([partial(fitted, pixels) for _, pixels in batch]))
    table = np.concatenate(parts)
    shown = pd.DataFrame(table).rolling(SMOOTHED, center=True, min_periods=1).mean().to_numpy()
    apart = f"{arguments.every:g} s apart" if arguments.every else "all of them"
    print(f"{video.name}: {len(times):,} frames, {apart}")
    for first, last, row in spans(shown):
        end = times[last + 1] if last + 1 < len(times) else video.end
        print(f"  {clock(times[first])} to {clock(end)}   {verdict(row)}")
    if missing := video.missing():
        print(f"  {missing}")
    if arguments.annotate:
        write_annotated(video, annotated_path(arguments.annotate, video.name, ".mp4"), times, shown)
    return [f"{video.name}@{time:09.3f}" for time in times], table


def verdict(probabilities: np.ndarray) -> str:
    """'c3 texting - left 92%, or c1 texting - right 6%' of shape (10,)."""
    from tools.pictures import class_words

    first, second = (-probabilities).argsort(kind="stable")[:2]
    found = f"{class_words(first)} {probabilities[first]:.0%}"
    if probabilities[second] >= WORTH_SAYING:
        found += f", or {class_words(second)} {probabilities[second]:.0%}"
    return found


def spans(probabilities: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    """Runs of rows with the same most probable class: first row, last row, their mean."""
    import numpy as np

    best = probabilities.argmax(axis=1)
    starts = np.flatnonzero(np.diff(best, prepend=-1))
    for first, after in zip(starts, [*starts[1:], len(best)], strict=True):
        yield int(first), int(after) - 1, probabilities[first:after].mean(axis=0)


def annotated_path(folder: Path, name: str, suffix: str) -> Path:
    """Where the annotated copy of a picture goes; paths outside its folder lose what leads there."""
    parts = [part for part in Path(name).parts if part not in ("/", "..", ".")]
    path = folder.joinpath(*parts)
    return path if path.suffix.lower() == suffix else path.with_name(path.name + suffix)


if __name__ == "__main__":
    run_command(main)
