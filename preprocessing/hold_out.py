"""Makes a practice competition of any data folder: some of its drivers become the test set, their labels kept aside.

python -m preprocessing.hold_out --drivers p022 p041 p061 p081 --out practice

writes practice/ in Kaggle's layout, and practice_test_labels.csv (img,subject,classname) beside it. The images are hard
links where the file system has them and copies elsewhere. The original test images, which have no labels, are left out.
"""

import random
from collections.abc import Sequence
from pathlib import Path

from common.competition import CLASSES, TEST_FOLDER, TRAIN_FOLDER, held_out_labels_path
from common.errors import UserError, run_command
from common.files import folder_written_whole, link_or_copy
from common.settings import CommandLine, nearest
from preprocessing.dataset import Dataset, add_data_options, load_chosen, write_tables

FIRST_NUMBER = 200_000  # of the renamed images; the competition's own end before 110,000


def hold_out(data: Dataset, drivers: Sequence[str], out: Path, seed: int = 0) -> Path:
    """Writes the practice competition to a new folder; returns the path of the held-out labels.

    The test images get new names, by the seed, so that neither a name nor the order tells the class or the driver.
    """
    known = sorted(data.train["subject"].unique())
    unknown = [driver for driver in drivers if driver not in known]
    if unknown:
        words = "".join(f"{driver!r} is not in the data{nearest(driver, known) or '.'} " for driver in unknown)
        raise UserError(f"--drivers: {words}All drivers: {' '.join(known)}")
    if not drivers or set(drivers) == set(known):
        raise UserError(f"--drivers: expected some of {' '.join(known)}; at least one must be left to train on.")
    labels = held_out_labels_path(out)
    for path in (out, labels):
        if path.exists():
            raise UserError(f"{path} is there already. Choose another --out, or move it away first.")
    if out.resolve().is_relative_to(data.root.resolve()):
        raise UserError(f"--out {out} lies in the data folder, which is never written to. Choose another place.")

    rows = list(data.train[["subject", "classname", "img"]].itertuples(index=False, name=None))
    kept, held = [row for row in rows if row[0] not in drivers], [row for row in rows if row[0] in drivers]
    numbers = list(range(FIRST_NUMBER, FIRST_NUMBER + len(held)))
    random.Random(seed).shuffle(numbers)  # noqa: S311  (a practice set is no secret)
    renamed = sorted((f"img_{number}.jpg", row) for number, row in zip(numbers, held, strict=True))

    with folder_written_whole(out) as folder:
        for name in (*(f"{TRAIN_FOLDER}/{classname}" for classname in CLASSES), TEST_FOLDER):
            (folder / name).mkdir(parents=True)
        for _, classname, img in kept:
            link_or_copy(data.train_path(img, classname), folder / TRAIN_FOLDER / classname / img)
        for name, (_, classname, img) in renamed:
            link_or_copy(data.train_path(img, classname), folder / TEST_FOLDER / name)
        truth = [(name, subject, classname) for name, (subject, classname, _) in renamed]
        # Last and only then renamed: no practice set is ever left without its labels.
        write_tables(folder, kept, truth, labels)
    return labels


def main() -> None:
    parser = CommandLine(prog="python -m preprocessing.hold_out", description=__doc__)
    add_data_options(parser)
    parser.add_argument("--drivers", nargs="+", required=True, metavar="DRIVER", help="who becomes the test set")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the new folder")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the new names of the test images [0]")
    arguments = parser.parse_args()
    data = load_chosen(arguments)
    labels = hold_out(data, arguments.drivers, arguments.out, arguments.seed)
    held = data.train["subject"].isin(arguments.drivers).sum()
    print(f"{arguments.out}: {len(data.train) - held:,} training images, {held:,} test images; their labels: {labels}")


if __name__ == "__main__":
    run_command(main)
