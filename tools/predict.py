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

from pathlib import Path
from typing import TYPE_CHECKING

from common import terminal
from common.competition import NUMBER_OF_CLASSES
from common.errors import UserError, named, run_command
from common.files import written_whole
from common.run_folder import RunFolder
from common.settings import CommandLine, number
from tools.finished import add_choice, finished_folds

if TYPE_CHECKING:
    import argparse

    import numpy as np

    from tools.networks import Networks
    from tools.pictures import Found, Video

MOST_LINES = 20  # of photographs on the terminal
INCOMPLETE = 3  # exit status
SMOOTHED = 3  # samples of a video whose mean is shown; the table has each as it is


class IncompleteError(UserError):
    """All that could be predicted was, but parts of videos are missing."""

    status = INCOMPLETE


def command_line() -> CommandLine:
    """The options of this command."""
    parser = CommandLine(prog="python -m tools.predict", description=__doc__)
    parser.add_argument(
        "pictures", type=Path, nargs="+", metavar="PICTURE", help="photographs, videos, folders of them"
    )
    add_choice(parser)
    parser.add_argument("--out", type=Path, metavar="CSV", help="write a prediction table")
    parser.add_argument("--annotate", type=Path, metavar="DIR", help="write copies with the probabilities beside them")
    parser.add_argument(
        "--every", type=number(0, 3600), default=0.5, metavar="S", help="seconds between frames seen, 0 for all [0.5]"
    )
    return parser


def main() -> None:
    arguments = command_line().parse_args()
    fold_runs = finished_folds(RunFolder.existing(arguments.run, arguments.runs), arguments.model, arguments.fold)

    from tools import pictures

    found = pictures.find(arguments.pictures)
    photographs, videos = found.photographs, found.videos
    for path in [p.path for p in photographs] + [v.path for v in videos] if arguments.annotate else []:
        if path.resolve().is_relative_to(arguments.annotate.resolve()):
            raise UserError(
                f"--annotate {arguments.annotate}: {path} lies in it. Choose a folder without the originals."
            )

    from tools.networks import MOST_AT_ONCE, Networks

    networks = Networks(fold_runs, MOST_AT_ONCE if videos else len(photographs))
    names: list[str] = []
    tables: list[np.ndarray] = []
    incomplete: list[str] = []
    if photographs:
        names, table = _photographs(found, networks, arguments.annotate)
        tables.append(table)
    for video in videos:
        seen, table = _video(video, networks, arguments)
        names += seen
        tables.append(table)
        if missing := video.missing():
            print(f"  {missing}")
            incomplete.append(f"{video.name} ({missing})")
    if not names:
        raise UserError(f"none of these can be read: {named([str(path) for path in found.left_out])}.")
    each = networks.seconds / networks.pictures
    print(
        f"\n{networks.pictures:,} picture{'s' * (networks.pictures != 1)}, {each:.3f} s each (reading and {networks}); "
        f"{networks.load_seconds:.1f} s to load"
    )
    if arguments.out:
        import numpy as np

        from common.tables import write_predictions

        write_predictions(arguments.out, names, np.concatenate(tables))
        print(arguments.out)
    if arguments.annotate:
        print(arguments.annotate)
    if found.left_out:
        print(found.summary())
    if incomplete:
        raise IncompleteError(
            f"parts of {len(incomplete)} video{'s' * (len(incomplete) > 1)} are missing, the rest was predicted: "
            f"{named(incomplete)}. Copy the originals again."
        )


def _photographs(found: Found, networks: Networks, annotate: Path | None) -> tuple[list[str], np.ndarray]:
    """Predicts, prints a line for each of the first ones, and writes annotated copies."""
    import numpy as np

    from tools import drawing
    from tools.networks import in_batches
    from tools.pictures import Photograph

    photographs = found.photographs
    width = max(len(photograph.name) for photograph in photographs[:MOST_LINES])
    names: list[str] = []
    parts = [np.empty((0, NUMBER_OF_CLASSES))]
    many = len(photographs) > MOST_LINES
    bar = terminal.bar(len(photographs), "predicting", many)
    for batch in in_batches(photographs, networks.batch):
        bar.update(len(batch))
        try:
            probabilities = networks.predict([photograph.seen for photograph in batch])
        except UserError:  # a header was in order, the rest is not
            batch = found.only(batch, Photograph.whole)
            probabilities = networks.predict([photograph.seen for photograph in batch])
        for photograph, row in zip(batch, probabilities, strict=True):
            if not many:
                print(f"{photograph.name.ljust(width)}   {drawing.verdict(row)}")
            if annotate:
                picture = drawing.with_probabilities(photograph.whole(), row, photograph.name)
                with written_whole(annotated_path(annotate, photograph.name, ".jpg")) as temporary:
                    temporary.write_bytes(drawing.encoded(picture))
        names += [photograph.name for photograph in batch]
        parts.append(probabilities)
    table = np.concatenate(parts)
    bar.close()
    if many:
        print(drawing.of_classes(table))
    return names, table


def _video(video: Video, networks: Networks, arguments: argparse.Namespace) -> tuple[list[str], np.ndarray]:
    """Predicts samples of a video, prints what happens when, and writes an annotated copy."""
    from functools import partial

    import numpy as np
    import pandas as pd

    from preprocessing.images import fitted
    from tools.drawing import spans, verdict, write_annotated
    from tools.networks import in_batches
    from tools.pictures import clock

    times: list[float] = []
    parts = []
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
    if arguments.annotate:
        write_annotated(video, annotated_path(arguments.annotate, video.name, ".mp4"), times, shown)
    return [f"{video.name}@{time:09.3f}" for time in times], table


def annotated_path(folder: Path, name: str, suffix: str) -> Path:
    """Where the annotated copy of a picture goes; paths outside its folder lose what leads there."""
    parts = [part for part in Path(name).parts if part not in ("/", "..", ".")]
    path = folder.joinpath(*parts)
    return path if path.suffix.lower() == suffix else path.with_name(path.name + suffix)


if __name__ == "__main__":
    run_command(main)
