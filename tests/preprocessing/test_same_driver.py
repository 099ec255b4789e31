"""Drivers are recognised by what their photographs look like, and behaviours are not taken for drivers; outlines."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import homogeneity_score

from common.competition import CLASSES, DRIVER_LIST, TRAIN_FOLDER
from common.metric import accuracy, clustered_logarithms
from preprocessing.demo import DemoSettings, render_demo
from preprocessing.same_driver import UNKNOWN, Outlines, clouds_of, same_driver
from tests.trees import scene, write_noisy

SAMPLE = os.environ.get("STATEFARM_SAMPLE")


def listed(root: Path) -> tuple[pd.DataFrame, list[Path]]:
    rows = pd.read_csv(root / DRIVER_LIST)
    return rows, [root / TRAIN_FOLDER / row.classname / row.img for row in rows.itertuples()]


def pictures(folder: Path, scenes: int, images: int, behaviours: int = 1) -> list[Path]:
    """Noisy pictures of random scenes; `behaviours` squares at different places, in turn."""
    random, paths = np.random.default_rng(0), []
    for driver in range(scenes):
        background = scene(random)
        for image in range(images):
            picture = background.copy()
            if behaviours > 1:
                place = image % behaviours * 64 // behaviours
                picture[16:28, place : place + 12] = 255
            paths.append(folder / f"{driver}_{image}.jpg")
            write_noisy(paths[-1], picture, random)
    return paths


def predictions_of(classes: np.ndarray) -> np.ndarray:
    """Shape (images, 10): right with 0.91."""
    return np.full((len(classes), 10), 0.01) + 0.9 * np.eye(10)[classes]


def test_behaviours_are_not_taken_for_drivers(tmp_path: Path) -> None:
    paths = pictures(tmp_path, scenes=2, images=60, behaviours=2)
    groups = same_driver(paths, predictions_of(np.arange(120) % 2)).reshape(2, 60)
    assert all(len(set(row)) == 1 for row in groups) and len(np.unique(groups)) == 2
    blind = same_driver(paths, np.full((120, 10), 0.1))
    assert len(np.unique(blind)) == 4, "predictions that say nothing cannot tell"


def test_rendered_drivers(tmp_path: Path) -> None:
    settings = DemoSettings(drivers=4, test_drivers=1, images_per_class=3, test_images_per_class=1, workers=2)
    render_demo(tmp_path / "demo", settings)
    rows, paths = listed(tmp_path / "demo")
    groups = same_driver(paths, predictions_of(rows["classname"].map(CLASSES.index).to_numpy()))
    assert homogeneity_score(rows["subject"], groups) > 0.7 and homogeneity_score(rows["classname"], groups) < 0.1


def test_few_images_are_one_group_and_unreadable_files_are_in_none(tmp_path: Path) -> None:
    paths = pictures(tmp_path, scenes=2, images=30)
    predictions = predictions_of(np.arange(60) % 10)
    assert set(same_driver(paths[:39], predictions[:39])) == {0}
    assert set(same_driver([paths[0]] * 60, predictions)) == {0}
    assert same_driver([], predictions[:0]).tolist() == []
    paths[3].write_bytes(b"no picture")
    paths[5].unlink()
    groups = same_driver(paths, predictions)
    assert np.flatnonzero(groups == UNKNOWN).tolist() == [3, 5] and len(set(groups)) == 3
    assert set(same_driver([paths[3], paths[5]], predictions[:2])) == {UNKNOWN}


@pytest.mark.skipif(not SAMPLE, reason="STATEFARM_SAMPLE is not set")
@pytest.mark.parametrize("count", [3, 7, 14])
def test_drivers_of_the_competition(count: int) -> None:
    rows, paths = listed(Path(str(SAMPLE)))
    drivers = np.random.default_rng(count).choice(rows["subject"].unique(), count, replace=False)
    chosen = np.flatnonzero(rows["subject"].isin(drivers))
    part = rows.iloc[chosen]
    predictions = predictions_of(part["classname"].map(CLASSES.index).to_numpy())
    groups = same_driver([paths[place] for place in chosen], predictions)
    assert homogeneity_score(part["subject"], groups) > 0.9
    assert homogeneity_score(part["classname"], groups) < 0.05


@pytest.mark.skipif(not SAMPLE, reason="STATEFARM_SAMPLE is not set")
def test_outlines_correct_a_video_that_is_taken_for_another() -> None:
    rows, paths = listed(Path(str(SAMPLE)))
    chosen = np.flatnonzero(rows["subject"].isin(rows["subject"].unique()[:3]))
    labels = rows["classname"].iloc[chosen].map(CLASSES.index).to_numpy()
    drivers = rows["subject"].iloc[chosen].astype("category").cat.codes.to_numpy()
    taken = labels.copy()
    video = np.flatnonzero((labels == 9) & (drivers == 1))
    taken[video[: len(video) * 2 // 3]] = 0  # two thirds of it
    random = np.random.default_rng(0).random(len(taken)) < 0.1
    taken[random] = (taken[random] + 1) % 10  # and a tenth of all
    predictions = np.full((len(taken), 10), 0.04) + 0.6 * np.eye(10)[taken]
    clouds = clouds_of(Outlines.of([paths[place] for place in chosen]), drivers)
    after = clustered_logarithms(np.log(predictions), clouds)
    assert accuracy(predictions, labels) < 0.9 and accuracy(after, labels) > 0.97
