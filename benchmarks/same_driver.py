"""How well drivers are recognised without labels, on random sets of the known ones, and how long it takes.

    python -m benchmarks.same_driver --data DIR --sets 32
    python -m benchmarks.same_driver --data DIR --sets 0 --images 79726     only the time, images repeated

Homogeneity, 0 to 1: how well the groups separate the drivers (should be 1) and the behaviours (should be 0).
"""

import itertools
import time
from pathlib import Path

import numpy as np
from sklearn.metrics import homogeneity_score

from benchmarks.common import machine, parser
from common.errors import run_command
from common.run_folder import CACHE
from preprocessing.dataset import load, required
from preprocessing.same_driver import same_driver


def main() -> None:
    command = parser(__doc__)
    command.add_argument("--data", type=Path, metavar="DIR", help="the competition's folder [found by itself]")
    command.add_argument("--sets", type=int, default=32, metavar="N", help="random sets of drivers [32]")
    command.add_argument("--images", type=int, default=0, metavar="N", help="so many images for the time")
    arguments = command.parse_args()
    print(machine())
    data = load(required(arguments.data), CACHE)
    paths = [data.train_path(row.img, row.classname) for row in data.train.itertuples()]
    drivers, random, found = data.train["subject"].unique(), np.random.default_rng(0), []
    for number in range(arguments.sets):
        count = 2 + number % (len(drivers) - 1)
        chosen = np.flatnonzero(data.train["subject"].isin(random.choice(drivers, count, replace=False)))
        groups, part = same_driver([paths[place] for place in chosen], count), data.train.iloc[chosen]
        found.append([homogeneity_score(part[column], groups) for column in ("subject", "classname")])
        print(
            f"{count:3} drivers, {len(set(groups)):3} groups: drivers {found[-1][0]:.2f}, behaviours {found[-1][1]:.2f}"
        )
    if found:
        print("mean: drivers {:.2f}, behaviours {:.2f}".format(*np.mean(found, axis=0)))
    if arguments.images:
        repeated = list(itertools.islice(itertools.cycle(paths), arguments.images))
        begun = time.perf_counter()
        same_driver(repeated, max(2, arguments.images // (len(paths) // len(drivers))))
        print(f"{arguments.images:,} images: {time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    run_command(main)
