"""Drivers are recognised by what their photographs look like, and behaviours are not taken for drivers."""

import os
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import homogeneity_score

from common.competition import DRIVER_LIST, TRAIN_FOLDER
from preprocessing.demo import DemoSettings, render_demo
from preprocessing.same_driver import UNKNOWN, same_driver
from tests.trees import make_tree, write_image

SAMPLE = os.environ.get("STATEFARM_SAMPLE")


def listed(root: Path) -> tuple[pd.DataFrame, list[Path]]:
    rows = pd.read_csv(root / DRIVER_LIST)
    return rows, [root / TRAIN_FOLDER / row.classname / row.img for row in rows.itertuples()]


@pytest.mark.parametrize("guess", [3, 4, 6])
def test_each_driver_is_a_group_whatever_the_guess(tmp_path: Path, guess: int) -> None:
    random, paths = np.random.default_rng(0), []
    for driver in range(4):
        scene = cv2.resize(random.integers(0, 235, (3, 4, 3), dtype=np.uint8), (64, 48))
        for image in range(30):
            paths.append(tmp_path / f"{driver}_{image}.jpg")
            write_image(paths[-1], cv2.add(scene, random.integers(0, 20, scene.shape, dtype=np.uint8)))
    groups = same_driver(paths, guess).reshape(4, 30)
    assert all(len(set(row)) == 1 for row in groups) and len(np.unique(groups)) == 4


def test_rendered_drivers(tmp_path: Path) -> None:
    settings = DemoSettings(drivers=4, test_drivers=1, images_per_class=3, test_images_per_class=1, workers=2)
    render_demo(tmp_path / "demo", settings=settings)
    rows, paths = listed(tmp_path / "demo")
    groups = same_driver(paths, 4)
    assert homogeneity_score(rows["subject"], groups) > 0.7 and homogeneity_score(rows["classname"], groups) < 0.2


def test_what_cannot_be_grouped_is_one_group_and_unreadable_files_are_in_none(tmp_path: Path) -> None:
    _, paths = listed(make_tree(tmp_path / "data", drivers=2, images_per_class=1))
    assert set(same_driver(paths, 1)) == {0}
    assert set(same_driver([paths[0]] * 9, 3)) == {0}
    assert same_driver(paths[:1], 5).tolist() == [0]
    assert same_driver([], 5).tolist() == []
    paths[3].write_bytes(b"no picture")
    paths[5].unlink()
    groups = same_driver(paths, 2)
    assert np.flatnonzero(groups == UNKNOWN).tolist() == [3, 5]
    assert set(same_driver([paths[3], paths[5]], 2)) == {UNKNOWN}


@pytest.mark.skipif(not SAMPLE, reason="STATEFARM_SAMPLE is not set")
@pytest.mark.parametrize("count", [3, 7, 14])
def test_drivers_of_the_competition(count: int) -> None:
    rows, paths = listed(Path(str(SAMPLE)))
    drivers = np.random.default_rng(count).choice(rows["subject"].unique(), count, replace=False)
    chosen = np.flatnonzero(rows["subject"].isin(drivers))
    groups = same_driver([paths[place] for place in chosen], count)
    assert homogeneity_score(rows["subject"][chosen], groups) > 0.55
    assert homogeneity_score(rows["classname"][chosen], groups) < 0.15
