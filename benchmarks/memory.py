"""Whether memory is flat in the number of images: the competition in number, at `--quick` size.

    python -m benchmarks.memory                            22,424 training and 79,726 test images
    python -m benchmarks.memory --lists DIR                with the competition's own lists, from DIR
    python -m benchmarks.memory --train 2242 --test 7972   a tenth of it: the figures should hardly differ

Renders a few hundred small photographs and links them under all the names, then runs `python models/NAME.py --quick
--fold 0` and samples its anonymous memory (RssAnon of /proc/PID/status, with its child processes; what is mapped from
the cache does not count). The network's own is measured first, in a process that trains on a batch in memory and
predicts one. Aim: at most 3 GiB beyond it. On 2 cores about 15 minutes with mobilenet, most of it prediction.
"""

import argparse
import csv
import gzip
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.common import ROOT, machine, parser, tell

TRAIN, TEST, DRIVERS = 22_424, 79_726, 26
DIFFERENT = 300  # photographs; the others are links to them
GIBIBYTE = 2**30


def main() -> None:
    command = parser(__doc__)
    command.add_argument("--lists", type=Path, help="a folder with driver_imgs_list.csv and sample_submission.csv(.gz)")
    command.add_argument("--train", type=int, default=TRAIN, help="images of the made-up list")
    command.add_argument("--test", type=int, default=TEST, help="the same")
    command.add_argument("--architecture", default="mobilenet")
    command.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="of models/ARCHITECTURE.py; the last")
    command.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # in a process of its own
    arguments = command.parse_args()
    if arguments.one:
        network_alone(arguments.architecture)
        return
    print(machine())
    own, _, _ = peak(["-m", "benchmarks.memory", "--one", "--architecture", arguments.architecture])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        train, test = make_data(folder / "data", *lists(arguments))
        words = [
            f"models/{arguments.architecture}.py",
            "--quick",
            "--weights",
            "none",
            "--fold",
            "0",
            "--run",
            "memory",
        ]
        where = ["--data", folder / "data", "--runs", folder / "runs", "--cache", folder / "cache"]
        print(f"{train:,} training and {test:,} test images of {DIFFERENT} different photographs")
        most, told, seconds = peak([*words, *map(str, where), *arguments.options], echo=True)
    print(f"network alone: {own / GIBIBYTE:.2f} GiB of anonymous memory at most")
    print(
        f"the fold: {most / GIBIBYTE:.2f} GiB at most, {(most - own) / GIBIBYTE:.2f} GiB beyond it, while it said "
        f"{told!r}; {seconds:.0f} s"
    )
    sys.exit(0 if most - own <= 3 * GIBIBYTE else "more than 3 GiB beyond the network's own")


def lists(arguments: argparse.Namespace) -> tuple[list[list[str]], list[str]]:
    """Rows subject, classname, img of the training images, and the names of the test images."""
    if not arguments.lists:
        rows = [
            [f"p{number * DRIVERS // arguments.train:03d}", f"c{number % 10}", f"img_{number}.jpg"]
            for number in range(arguments.train)
        ]
        return rows, [f"img_{arguments.train + number}.jpg" for number in range(arguments.test)]
    train = _rows(arguments.lists / "driver_imgs_list.csv")
    return train, [row[0] for row in _rows(arguments.lists / "sample_submission.csv")]


def _rows(path: Path) -> list[list[str]]:
    """Without the header; of the file, or of the one packed with gzip beside it."""
    packed = path.with_name(path.name + ".gz")
    with path.open() if path.exists() else gzip.open(packed, "rt") as stream:
        return list(csv.reader(stream))[1:]


def make_data(root: Path, train: list[list[str]], test: list[str]) -> tuple[int, int]:
    """A data folder in Kaggle's layout, of links to a few photographs."""
    import cv2
    import numpy as np

    from common.competition import CLASSES, DRIVER_LIST, SAMPLE_SUBMISSION, TEST_FOLDER, TRAIN_FOLDER

    generator = np.random.default_rng(0)
    originals = root.parent / "originals"
    originals.mkdir(parents=True)
    for number in range(DIFFERENT):
        coarse = generator.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        cv2.imwrite(str(originals / f"{number}.jpg"), cv2.resize(coarse, (160, 120), interpolation=cv2.INTER_CUBIC))
    places = [f"{TRAIN_FOLDER}/{classname}/{img}" for _, classname, img in train]
    places += [f"{TEST_FOLDER}/{img}" for img in test]
    for folder in {str(Path(place).parent) for place in places}:
        (root / folder).mkdir(parents=True)
    for number, place in enumerate(places):
        os.link(originals / f"{number % DIFFERENT}.jpg", root / place)
    uniform = ["0.1"] * len(CLASSES)
    tables = {
        DRIVER_LIST: [["subject", "classname", "img"], *train],
        SAMPLE_SUBMISSION: [["img", *CLASSES], *([img, *uniform] for img in test)],
    }
    for name, rows in tables.items():
        with (root / name).open("w", newline="") as stream:
            csv.writer(stream, lineterminator="\n").writerows(rows)
    return len(train), len(test)


def peak(words: list[str], echo: bool = False) -> tuple[int, str, float]:
    """Runs `python WORDS...`: the most bytes of anonymous memory, the line that it had said last by then, seconds."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    begun = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, *words], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        found, said = [(0, "")], [""]
        watcher = threading.Thread(target=_watch, args=(process.pid, found, lambda: said[-1]))
        watcher.start()
        assert process.stdout is not None  # noqa: S101
        for line in process.stdout:
            said.append(line.strip())
            if echo:
                print(f"  {found[0][0] / GIBIBYTE:.2f} GiB  {line.strip()}", flush=True)
        failed = process.wait()
        watcher.join()
        if failed:
            errors.seek(0)
            sys.exit(errors.read()[-3000:])
    return *found[0], time.perf_counter() - begun


def _watch(pid: int, found: list[tuple[int, str]], said: Callable[[], str]) -> None:
    """Keeps the largest sum of RssAnon over a process and its descendants, until it ends."""
    import psutil

    process = psutil.Process(pid)
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        try:
            every = [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        found[0] = max(found[0], (sum(_anonymous(one.pid) for one in every), said()))
        time.sleep(0.05)


def _anonymous(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def network_alone(name: str) -> None:
    """A network as `--quick` trains it: some steps on a batch in memory, and a prediction."""
    from models.finetuning import architecture as zoo
    from models.finetuning import runtime

    policy = runtime.start("auto", 0)
    import numpy as np

    from models.finetuning.data.sources import PREDICTION_BATCH
    from models.finetuning.network.build import build
    from models.finetuning.network.network import set_trainable
    from models.finetuning.training.optimisation import make_optimizer, stages

    recipe, _ = zoo.find(name).settings_for({}, scratch=True, quick=True)
    network = build(zoo.find(name), recipe, "none", policy, 0)
    set_trainable(network, recipe, head_only=False)
    network.compile(make_optimizer(recipe, stages(recipe)[0], policy), recipe.label_smoothing)
    shape = network.training.input_shape[1:]
    batch = np.zeros((recipe.batch_size, *shape), np.uint8)
    for _ in range(3):
        network.train_on_batch(batch, np.eye(10, dtype=np.float32)[np.arange(len(batch)) % 10])
    network.predictor.predict_on_batch(np.zeros((PREDICTION_BATCH, *shape), np.uint8))
    tell(done=1)


if __name__ == "__main__":
    main()
