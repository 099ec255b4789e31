"""The demo set: Kaggle's layout, the same bytes each time, and the trap of the real photographs."""

import dataclasses
import hashlib
import itertools
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, StratifiedShuffleSplit
from threadpoolctl import threadpool_limits

from common.competition import CLASSES, DRIVER_LIST, SAMPLE_SUBMISSION, TRAIN_FOLDER, held_out_labels_path
from common.errors import UserError
from common.metric import log_loss
from preprocessing import dataset, demo
from preprocessing.demo import DemoSettings, ensure_demo, render_demo

TINY = DemoSettings(seed=3, drivers=2, test_drivers=1, images_per_class=1, test_images_per_class=1, workers=1)


def digests(root: Path) -> dict[str, str]:
    """Every file under `root`, and the test labels beside it."""
    found = {str(path.relative_to(root)): path for path in sorted(root.rglob("*")) if path.is_file()}
    found["labels"] = held_out_labels_path(root)
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in found.items()}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tiny") / "demo"
    render_demo(root, TINY)
    return root


def test_layout_is_kaggles(tiny: Path, tmp_path: Path) -> None:
    assert sorted(path.name for path in tiny.iterdir()) == [DRIVER_LIST, "imgs", SAMPLE_SUBMISSION]
    data = dataset.load(tiny, tmp_path)  # checks every file against the tables
    rows = sorted(zip(data.train["subject"], data.train["classname"], strict=True))
    assert rows == list(itertools.product(("p001", "p002"), CLASSES))
    labels = pd.read_csv(tiny.parent / "demo_test_labels.csv")  # beside the data and never in it
    assert list(labels.columns) == ["img", "subject", "classname"]
    assert sorted(labels["img"]) == sorted(data.test)
    assert sorted(labels["classname"]) == list(CLASSES)
    assert set(labels["subject"]) == {"p003"}
    assert cv2.imread(str(next(tiny.rglob("*.jpg")))).shape == (480, 640, 3)


def test_test_names_tell_neither_class_nor_driver() -> None:
    train, test = demo._clips(DemoSettings())
    assert not {clip.subject for clip in train} & {clip.subject for clip in test}
    named = sorted((int(name[4:-4]), clip.behaviour, clip.subject) for clip in test for name in clip.names)
    same_class = np.mean([first[1] == second[1] for first, second in itertools.pairwise(named)])
    same_driver = np.mean([first[2] == second[2] for first, second in itertools.pairwise(named)])
    assert same_class < 0.2  # chance is 0.1; in video order it is 0.83
    assert same_driver < 0.4  # chance is 0.25


def test_same_seed_same_bytes_whatever_the_number_of_workers(tiny: Path, tmp_path: Path) -> None:
    render_demo(tmp_path / "demo", dataclasses.replace(TINY, workers=2))
    assert digests(tmp_path / "demo") == digests(tiny)
    render_demo(tmp_path / "other", dataclasses.replace(TINY, seed=4, drivers=1))
    assert not set(digests(tmp_path / "other").values()) & set(digests(tiny).values())


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    root = tmp_path / "demo"
    root.mkdir()
    (root / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="is there already"):
        render_demo(root, TINY)
    assert (root / "mine.txt").read_text() == "precious"


def test_ensure_demo_renders_once_and_never_leaves_half_a_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def stopped(*arguments: object) -> None:
        calls.append(arguments)
        raise KeyboardInterrupt

    render = demo._render_clips
    monkeypatch.setattr(demo, "DemoSettings", lambda *seed: TINY)
    monkeypatch.setattr(demo, "_render_clips", stopped)
    with pytest.raises(KeyboardInterrupt):
        ensure_demo(tmp_path)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(demo, "_render_clips", render)
    root = ensure_demo(tmp_path)
    before = digests(root)
    with monkeypatch.context() as patched:
        patched.setattr(demo, "_render_clips", stopped)  # nothing is rendered twice
        assert ensure_demo(tmp_path) == root
    assert digests(root) == before
    next(root.rglob("*.jpg")).unlink()  # the cache may be cleared, in part too
    ensure_demo(tmp_path)
    assert digests(root) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [root.name, held_out_labels_path(root).name]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:lbfgs failed to converge")  # a memorising model has no minimum to reach
def test_a_random_split_leaks_and_a_split_by_driver_does_not(tmp_path: Path) -> None:
    """What the competition is known for: pixels recognise the sequence, not the behaviour."""
    root = tmp_path / "demo"
    render_demo(root, DemoSettings(drivers=12, test_drivers=1, images_per_class=6, test_images_per_class=1))
    rows = pd.read_csv(root / DRIVER_LIST)
    labels, drivers = rows["classname"].map(CLASSES.index).to_numpy(), rows["subject"].to_numpy()
    thumbnails = []
    for row in rows.itertuples():
        path = root / TRAIN_FOLDER / row.classname / row.img
        picture = cv2.imread(str(path), cv2.IMREAD_REDUCED_COLOR_4)
        thumbnails.append(cv2.resize(picture, (16, 16), interpolation=cv2.INTER_AREA).ravel() / 255)
    pixels = np.stack(thumbnails)

    def loss(splits: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
        losses = []
        for train, valid in splits:
            model = LogisticRegression(C=3.0, max_iter=150).fit(pixels[train], labels[train])
            losses.append(log_loss(model.predict_proba(pixels[valid]), labels[valid]))
        return float(np.mean(losses))

    with threadpool_limits(1):  # on small matrices a second thread only waits for the first
        assert loss(GroupKFold(3).split(pixels, labels, drivers)) > 1.8
        assert loss(StratifiedShuffleSplit(2, test_size=0.2, random_state=0).split(pixels, labels)) < 0.5
