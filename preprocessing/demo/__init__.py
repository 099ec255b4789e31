"""A synthetic stand-in for the competition's photographs, rendered where there is no data, in Kaggle's own layout.

The pictures: ten behaviours, each driver with a body, clothes, cabin, light and camera of their own, in short video
sequences, so that they have the trap of the real ones: a random split of the frames leaks, a split by driver does not.

Here is the set on disk; nothing of the renderer is imported before there is something to render.
"""

import contextlib
import dataclasses
import functools
import multiprocessing
import shutil
from collections.abc import Iterator, Sequence
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from common import environment
from common.competition import CLASSES, TEST_FOLDER, TRAIN_FOLDER, held_out_labels_path
from common.errors import held_back, progress_bar
from common.files import folder_written_whole, locked
from common.settings import setting
from preprocessing.dataset import write_tables

VERSION = 3  # raise it whenever the pictures change: a cached set of another version is not used
JPEG_QUALITY = 88
MOST_SEQUENCES = 3  # of one driver and behaviour
HIGHEST_NUMBER = 102_150  # image names run from img_1 to about here, as the competition's
MOST_WORKERS = 8


@dataclasses.dataclass(frozen=True)
class DemoSettings:
    """How much is rendered."""

    seed: int = setting(0, "everything random follows from it", least=0)
    drivers: int = setting(50, "drivers to train on", least=1, most=900)
    test_drivers: int = setting(4, "other drivers, to predict", least=1, most=90)
    images_per_class: int = setting(2, "training images of each driver and behaviour", least=1, most=100)
    test_images_per_class: int = setting(6, "test images of each driver and behaviour", least=1, most=100)
    workers: int = setting(0, "processes that render; 0 is one for each core", least=0)


@dataclasses.dataclass(frozen=True)
class Clip:
    """All images of one driver and one behaviour: the unit of work."""

    seed: int
    driver: int  # counted from 0, over training and test drivers
    behaviour: str
    names: tuple[str, ...]  # image names in video order
    folder: str

    @property
    def subject(self) -> str:
        """The driver's name in the tables."""
        return f"p{self.driver + 1:03d}"


def demo_root(cache: Path, seed: int = 0) -> Path:
    """Where in the cache the demo set of this seed lies, or will lie."""
    return Path(cache) / f"demo_seed{seed}_v{VERSION}"


def is_demo(root: Path) -> bool:
    """Whether it is a demo set in the cache, by its name."""
    return root.name.startswith("demo_seed")


def demo_counts() -> tuple[int, int]:
    """Numbers of training and of test images of a demo set of the default size."""
    size, classes = DemoSettings(), len(CLASSES)
    return size.drivers * size.images_per_class * classes, size.test_drivers * size.test_images_per_class * classes


def ensure_demo(cache: Path, seed: int = 0) -> Path:
    """The demo set of this seed in the cache, rendered if it is not there yet; returns its folder."""
    root = demo_root(cache, seed)
    if _is_whole(root):
        return root
    with locked(root.parent / f".{root.name}.lock", f"the demo set {root} is being rendered", wait=True):
        if root.is_dir() and not _is_whole(root):  # what lies in the cache may be made again
            shutil.rmtree(root, ignore_errors=True)
        if not root.is_dir():
            render_demo(root, DemoSettings(seed))
    return root


def _is_whole(root: Path) -> bool:
    return held_out_labels_path(root).is_file() and sum(1 for _ in root.rglob("*.jpg")) == sum(demo_counts())


def render_demo(root: Path, settings: DemoSettings) -> None:
    """Renders a demo set into a folder that does not exist yet (or is empty), whole or not at all.

    The bytes depend on the settings, never on the number of workers. Its labels lie at `held_out_labels_path`.
    """
    with folder_written_whole(root) as folder:
        train, test = _clips(settings)
        _render_clips(train + test, folder, settings.workers)
        truth = sorted(((row[2], row[0], row[1]) for row in _rows(test)), key=lambda row: int(row[0][4:-4]))
        write_tables(folder, _rows(train), truth, held_out_labels_path(root))


def _clips(settings: DemoSettings) -> tuple[list[Clip], list[Clip]]:
    """Training and test clips; names are drawn so that neither they nor their order tell driver or class."""
    import numpy as np

    counts = [settings.images_per_class] * settings.drivers + [settings.test_images_per_class] * settings.test_drivers
    total = sum(counts) * len(CLASSES)
    rng = np.random.default_rng([settings.seed, 1])
    numbers: Iterator[int] = iter(1 + rng.permutation(max(total, HIGHEST_NUMBER))[:total])
    clips: tuple[list[Clip], list[Clip]] = ([], [])
    for driver, count in enumerate(counts):
        is_test = driver >= settings.drivers
        for behaviour in CLASSES:
            names = tuple(f"img_{next(numbers)}.jpg" for _ in range(count))
            folder = TEST_FOLDER if is_test else f"{TRAIN_FOLDER}/{behaviour}"
            clips[is_test].append(Clip(settings.seed, driver, behaviour, names, folder))
    return clips


def _render_clips(clips: Sequence[Clip], root: Path, workers: int) -> None:
    """Writes the JPEG files of all clips under `root`, with a bar where a person looks on."""
    for folder in sorted({clip.folder for clip in clips}):
        (root / folder).mkdir(parents=True)
    workers = min(workers or min(environment.cores(), MOST_WORKERS), len(clips))
    total = sum(len(clip.names) for clip in clips)
    render = functools.partial(_render_clip, root=root)
    with progress_bar(total, "rendering the demo set") as bar:
        if workers == 1:
            for clip in clips:
                bar.update(render(clip))
            return
        # 'spawn': a fork of a process in which TensorFlow runs threads can hang.
        resource_tracker.ensure_running()  # its start would let the signal through
        with contextlib.ExitStack() as stack:
            with held_back():
                pool = multiprocessing.get_context("spawn").Pool(workers, initializer=_begin_worker)
                stack.enter_context(pool)
            for count in pool.imap_unordered(render, clips, chunksize=len(CLASSES) // 2):
                bar.update(count)


def _begin_worker() -> None:
    import cv2

    cv2.setNumThreads(1)


def _render_clip(clip: Clip, root: Path) -> int:
    """Renders one clip; returns the number of images."""
    import cv2
    import numpy as np

    from preprocessing.demo.film import film

    room = _studio(clip.seed, clip.driver)
    rng = np.random.default_rng([clip.seed, 3, clip.driver, CLASSES.index(clip.behaviour)])
    names = iter(clip.names)
    for frames in sequence_lengths(len(clip.names), int(rng.integers(1, MOST_SEQUENCES + 1))):
        for picture in film(room, clip.behaviour, frames, rng):
            data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
            (root / clip.folder / next(names)).write_bytes(data.tobytes())
    return len(clip.names)


def sequence_lengths(frames: int, sequences: int) -> list[int]:
    """Splits frames into sequences of nearly equal length, none shorter than two where possible."""
    sequences = max(1, min(sequences, frames // 2))
    return [frames // sequences + (number < frames % sequences) for number in range(sequences)]


@functools.lru_cache(maxsize=2)
def _studio(seed: int, driver: int) -> Any:
    import numpy as np

    from preprocessing.demo.film import studio
    from preprocessing.demo.scene import draw_driver

    rng = np.random.default_rng([seed, 2, driver])
    return studio(draw_driver(rng, driver), rng)


def _rows(clips: Sequence[Clip]) -> list[tuple[str, str, str]]:
    """subject, classname, img in video order."""
    return [(clip.subject, clip.behaviour, name) for clip in clips for name in clip.names]
