"""How long the ensemble stage takes, and how much memory, on tables of the competition's size.

    python benchmarks/blend.py                         15 models: 22,424 labelled images, 79,726 to predict
    python benchmarks/blend.py --labelled 79726        all tables of 79,726 rows
    python benchmarks/blend.py --search                the nearest 20 of 79,726 images in 512 features

Makes tables of models of unequal skill in a temporary folder, then runs `python -m ensemble.blend --predictions ...` as
a user would. Aims, on 2 cores: 60 s and 2 GiB for the blend; 10 minutes and 4 GiB for the search.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

DRIVERS = 26


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=15)
    parser.add_argument("--labelled", type=int, default=22_424, help="images out of fold")
    parser.add_argument("--test", type=int, default=79_726, help="images to predict")
    parser.add_argument("--features", type=int, default=512, help="of the search")
    parser.add_argument("--search", action="store_true", help="measure the search for neighbours instead")
    arguments = parser.parse_args()
    if arguments.search:
        search(arguments.test, arguments.features)
    else:
        blend(arguments.models, arguments.labelled, arguments.test)


def blend(models: int, labelled: int, test: int) -> None:
    """Times the blend of made-up tables."""
    import pandas as pd

    from common.competition import CLASSES
    from common.tables import write_predictions

    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        lists: dict[str, list[Path]] = {"": [], "_test": []}
        for part, rows in (("", labelled), ("_test", test)):
            labels, drivers = random.integers(0, 10, size=rows), np.arange(rows) * DRIVERS // rows
            images = [f"img{part}_{row}.jpg" for row in range(rows)]
            names = [f"p{driver:03}" for driver in drivers]
            table = pd.DataFrame({"img": images, "classname": [CLASSES[label] for label in labels], "subject": names})
            table.to_csv(folder / f"labels{part}.csv", index=False)
            shared = random.normal(size=(rows, 10))
            for model in range(models):
                logits = shared + random.normal(size=(rows, 10)) + random.normal(size=(DRIVERS, 10))[drivers]
                logits[np.arange(rows), labels] += 2 + 2 * model / models
                exponentials = np.exp(logits)
                lists[part].append(folder / f"model{model}{part}.csv")
                write_predictions(lists[part][-1], images, exponentials / exponentials.sum(axis=1, keepdims=True))
        command = [sys.executable, "-m", "ensemble.blend", "--labels", str(folder / "labels.csv")]
        command += ["--predictions", *map(str, lists[""]), "--test-predictions", *map(str, lists["_test"])]
        command += ["--runs", str(folder / "runs"), "--submissions", str(folder / "submissions")]
        start = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"{models} tables of {labelled:,} labelled and {test:,} other images, blended and written: {seconds:.0f} s "
        f"({used.ru_utime + used.ru_stime:.0f} s of CPU), {used.ru_maxrss / 2**20:.2f} GiB at most"
    )


def search(images: int, dimensions: int) -> None:
    """Times the search for neighbours among made-up features."""
    from ensemble.neighbours import MOST_NEIGHBOURS, nearest, normalised

    features = normalised(
        np.random.default_rng(0).normal(size=(images, dimensions)).astype(np.float32),
        np.zeros(dimensions, np.float32),
    )
    start = time.perf_counter()
    nearest(features)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(
        f"{MOST_NEIGHBOURS} neighbours of {images:,} x {dimensions} features: {time.perf_counter() - start:.0f} s "
        f"({used.ru_utime + used.ru_stime:.0f} s of CPU), {used.ru_maxrss / 2**20:.2f} GiB at most"
    )


if __name__ == "__main__":
    main()
