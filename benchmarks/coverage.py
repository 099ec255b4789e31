"""How often the prediction interval of a blend holds the loss of drivers that it was not made of.

    python -m benchmarks.coverage --run practice                       200 splits of the run's drivers, 4 of them new

Each split takes the losses out of fold of all but some drivers of a run, makes the interval that `ensemble.blend`
prints, and looks whether the loss of the others lies in it. Nominal: 90 %.
"""

import argparse
from pathlib import Path

import numpy as np

from common.competition import CLASSES
from common.errors import UserError, run_command
from common.metric import log_loss_per_image
from common.run_folder import RUNS, RunFolder
from common.tables import read_predictions
from ensemble.result import LEVEL, expected_loss
from preprocessing.folds import read_folds


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__)
    parser.add_argument("--run", default="full", metavar="NAME", help="a run that is blended")
    parser.add_argument("--runs", type=Path, default=RUNS, metavar="DIR")
    parser.add_argument("--new", type=int, default=4, help="drivers of each split that are new [4]")
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    run = RunFolder.of(arguments.run, arguments.runs)
    folds = read_folds(run.folds).set_index("img")
    table = read_predictions(run.ensemble / "out_of_fold.csv")
    known = folds.loc[table.index]
    losses = log_loss_per_image(table.to_numpy(), known["classname"].map(CLASSES.index).to_numpy())
    share, width = coverage(losses, known["subject"].to_numpy(dtype=str), arguments)
    print(f"{share:.1%} of {arguments.splits} splits, mean width {width:.3f}; nominal {LEVEL:.0%}")


def coverage(losses: np.ndarray, drivers: np.ndarray, arguments: argparse.Namespace) -> tuple[float, float]:
    """The share of splits whose new drivers lie in the interval, and its mean width in nats."""
    random, names = np.random.default_rng(arguments.seed), np.unique(drivers)
    if not 0 < arguments.new < len(names) - 1:
        raise UserError(f"--new {arguments.new}: expected 1 to {len(names) - 2}, for the run has {len(names)} drivers.")
    hits, widths = [], []
    for _ in range(arguments.splits):
        new = np.isin(drivers, random.choice(names, arguments.new, replace=False))
        interval = expected_loss(losses[~new], drivers[~new], arguments.new)
        hits.append(interval.lowest <= losses[new].mean() <= interval.highest)
        widths.append(interval.highest - interval.lowest)
    return float(np.mean(hits)), float(np.mean(widths))


if __name__ == "__main__":
    run_command(main)
