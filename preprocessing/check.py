"""Checks the whole data folder and prints what is in it, or everything that is wrong with it.

python -m preprocessing.check [--data DIR] [--skip-broken]
"""

from common.competition import CLASS_NAMES, COMPLETE_TEST_IMAGES, COMPLETE_TRAIN_IMAGES
from common.errors import run_command
from common.settings import CommandLine
from preprocessing.dataset import Dataset, add_data_options, load_chosen


def describe(data: Dataset) -> str:
    """What the folder holds: a line with numbers of images and drivers, and a line for each class."""
    images, drivers = len(data.train), data.train["subject"].nunique()
    complete = images == COMPLETE_TRAIN_IMAGES and len(data.test) == COMPLETE_TEST_IMAGES
    whole = "the complete competition: " if complete else ""
    broken = f" ({len(data.broken_test):,} without a picture)" if data.broken_test else ""
    counts = data.train["classname"].value_counts()
    training = f"{images:,} training images of {drivers:,} drivers"
    first = f"{data.root}: {whole}{training}, {len(data.test):,} test images{broken}"
    return "\n".join([first, *(f"{counts.get(name, 0):>8,} {name} {words}" for name, words in CLASS_NAMES.items())])


def main() -> None:
    parser = CommandLine(prog="python -m preprocessing.check", description="Checks the whole data folder.")
    add_data_options(parser)
    print(describe(load_chosen(parser.parse_args())))


if __name__ == "__main__":
    run_command(main)
