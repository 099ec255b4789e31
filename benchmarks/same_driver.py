"""How well drivers are recognised without labels, on random sets of a run's known ones; how long it and clusters take.

    python -m benchmarks.same_driver --data DIR --run NAME
    python -m benchmarks.same_driver --data DIR --run NAME --sets 0 --images 79726     only the time, images repeated

Homogeneity, 0 to 1: how well the groups separate the drivers (should be 1) and the behaviours (should be 0).
"""

import time

import numpy as np
from sklearn.metrics import homogeneity_score

from benchmarks.common import machine, predictions_of, run_parser
from common.errors import UserError, run_command
from common.metric import clustered_logarithms, floored
from preprocessing.dataset import required
from preprocessing.same_driver import Outlines, clouds_of, same_driver


def main() -> None:
    command = run_parser(__doc__)
    command.add_argument("--sets", type=int, default=40, metavar="N", help="random sets of drivers [40]")
    command.add_argument("--images", type=int, default=0, metavar="N", help="so many images for the time")
    arguments = command.parse_args()
    print(machine())
    known = predictions_of(arguments)
    if not known.photographs:
        raise UserError(f"{required(arguments.data)}: expected the folders imgs/train and imgs/test.")
    predictions, subjects = known.out_of_fold.mean(axis=0), known.images["subject"]
    drivers, random, found = subjects.unique(), np.random.default_rng(0), []
    for number in range(arguments.sets):
        count = 2 + number % (len(drivers) - 1)
        chosen = np.flatnonzero(subjects.isin(random.choice(drivers, count, replace=False)))
        groups = same_driver([known.photographs[place] for place in chosen], predictions[chosen])
        part = known.images.iloc[chosen]
        found.append([homogeneity_score(part[column], groups) for column in ("subject", "classname")])
        scores = "drivers {:.3f}, behaviours {:.3f}".format(*found[-1])
        print(f"{count:3} drivers, {len(set(groups)):3} groups: {scores}")
    if found:
        print("mean: drivers {:.3f}, behaviours {:.3f}".format(*np.mean(found, axis=0)))
    if arguments.images:
        rows = np.arange(arguments.images) % len(predictions)
        begun = time.perf_counter()
        same_driver([known.photographs[row] for row in rows], predictions[rows])
        print(f"{arguments.images:,} images: {time.perf_counter() - begun:.0f} s")
    begun = time.perf_counter()
    clouds = clouds_of(Outlines.of(known.photographs), np.unique(subjects, return_inverse=True)[1])
    found_in = sum(len(rows) for rows, _ in clouds)
    read = time.perf_counter() - begun
    clustered_logarithms(np.log(floored(predictions)), clouds)
    print(f"outlines of {found_in:,} images: {read:.1f} s; clusters: {time.perf_counter() - begun - read:.1f} s")


if __name__ == "__main__":
    run_command(main)
