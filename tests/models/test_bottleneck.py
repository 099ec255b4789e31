"""A classifier on a frozen network's features: exact, cheap, blind to held-out drivers, and a model like any other."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from common.competition import CLASSES
from common.errors import UserError
from common.metric import log_loss
from common.settings import ImageSize
from common.tables import read_predictions
from models.finetuning import architecture as zoo
from models.finetuning.bottleneck import inner_folds
from models.finetuning.network import head as linear
from models.finetuning.network.head import Linear, calibration, fit_path, search, softmax, standardisation
from preprocessing.images import read_image
from tests.commands import run_python, succeeded


def some_features(images: int, size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features in which drivers differ more than classes do; labels; drivers."""
    generator = np.random.default_rng(seed)
    labels, drivers = np.arange(images) % 10, np.arange(images) * 5 // images
    centres, habits = generator.normal(size=(10, size)), 1.5 * generator.normal(size=(5, size))
    features = centres[labels] + habits[drivers] + 2 * generator.normal(size=(images, size))
    return (features * generator.uniform(0.2, 5, size) + 3).astype(np.float32), labels, drivers


@pytest.mark.parametrize("size", [40, 500])  # fewer features than images, and more
@pytest.mark.parametrize("path", [(0.01,), (0.0001, 0.001, 0.01)])
def test_the_fit_is_the_tightly_converged_logistic_regression(size: int, path: tuple[float, ...]) -> None:
    features, labels, _ = some_features(300, size)
    mine = fit_path(features[:200], labels[:200], "logistic", path, linear.FINAL_TOLERANCE)[-1]
    assert mine.kernel.shape == (size, 10)
    mean, deviation = standardisation(features[:200])
    standardised = ((features - mean) / deviation).astype(np.float64)
    tight = LogisticRegression(C=path[-1], tol=1e-9, max_iter=10_000).fit(standardised[:200], labels[:200])
    expected = tight.predict_proba(standardised[200:])
    loss = log_loss(softmax(mine(features[200:])), labels[200:])
    assert loss == pytest.approx(log_loss(expected, labels[200:]), abs=1e-4)
    np.testing.assert_allclose(softmax(mine(features[200:])), expected, atol=2e-3)


def test_calibration_makes_overconfident_scores_honest_and_is_folded_into_one_kernel() -> None:
    features, labels, drivers = some_features(500, 60)
    train, other, new = drivers < 3, drivers == 3, drivers == 4
    (scores,) = fit_path(features[train], labels[train], "svm", (1.0,), 1e-5)
    after = calibration(scores(features[other]), labels[other])
    both = scores.then(after)
    assert isinstance(both, Linear)
    np.testing.assert_allclose(both(features), after(scores(features)), rtol=1e-3, atol=1e-3)
    overconfident = scores.then(Linear(10 * np.eye(10), np.zeros(10)))
    calibrated = overconfident.then(calibration(overconfident(features[other]), labels[other]))
    losses = [log_loss(softmax(one(features[new])), labels[new]) for one in (calibrated, overconfident, scores)]
    assert losses[0] < losses[1] - 0.5, "on a driver whom neither fit has seen"
    assert losses[0] < losses[2] + 0.05


def inner_without(drivers: np.ndarray, fold: int) -> np.ndarray:
    """Inner folds of one driver each; -1 for the driver who is held out."""
    return np.where(drivers == fold, -1, np.where(drivers > fold, drivers - 1, drivers))


@pytest.mark.parametrize("classifier", linear.GRIDS)
def test_what_the_held_out_drivers_look_like_changes_nothing(classifier: str) -> None:
    features, labels, drivers = some_features(300, 30)
    inner = inner_without(drivers, 2)
    other_features, other_labels = features.copy(), labels.copy()
    other_features[drivers == 2] = 1e4
    other_labels[drivers == 2] = 0
    grid = linear.GRIDS[classifier]
    (one,) = search(features, labels, classifier, grid, True, [inner])
    (two,) = search(other_features, other_labels, classifier, grid, True, [inner])
    assert one[1] == two[1]
    np.testing.assert_array_equal(one[0].kernel, two[0].kernel)
    np.testing.assert_array_equal(one[0].bias, two[0].bias)


def test_the_regularisation_is_chosen_by_drivers_and_for_each_fold_as_if_it_were_alone() -> None:
    features, labels, drivers = some_features(300, 60)
    wrong = np.random.default_rng(1).random(300) < 0.4
    labels[wrong] = np.random.default_rng(2).integers(0, 10, wrong.sum())
    grid, inner = (1e-4, 1e-2, 1e2), [inner_without(drivers, fold) for fold in range(5)]
    choices = search(features, labels, "logistic", grid, False, inner, workers=2)
    assert max(regularisation for _, regularisation in choices) < 1e2, "hardly penalised, it learns errors by heart"
    (alone,) = search(features, labels, "logistic", grid, False, [inner[3]])
    np.testing.assert_array_equal(choices[3][0].kernel, alone[0].kernel)


def test_inner_folds_are_the_run_s_others_or_new_ones_by_driver() -> None:
    drivers = np.repeat([f"p{n}" for n in range(6)], 10)
    table = pd.DataFrame(
        {"subject": drivers, "classname": [f"c{n % 10}" for n in range(60)], "fold": np.repeat(range(6), 10)}
    )
    table["img"] = [f"img_{n}.jpg" for n in range(60)]
    inner = inner_folds(table, 2)
    assert list(inner) == list(np.repeat([0, 1, -1, 2, 3, 4], 10))
    two = inner_folds(table.assign(fold=table["fold"] // 3), 0)
    assert set(two[:30]) == {-1}
    assert sorted(set(two[30:])) == [0, 1, 2]
    assert pd.Series(two).groupby(drivers).nunique().max() == 1
    with pytest.raises(UserError, match=r"too few drivers.*--no-calibrate --regularisation") as told:
        inner_folds(table[(table["fold"] < 2)].reset_index(drop=True), 0)
    assert "\n" not in str(told.value)


def type_command(*words: object) -> subprocess.CompletedProcess:
    return run_python("models/bottleneck.py", *words, timeout=300)


@pytest.mark.slow
def test_from_photographs_to_a_member_of_the_blend(tiny_tree: Callable[..., Path], tmp_path: Path) -> None:
    data = tiny_tree(drivers=5, images_per_class=2, test_images=7)
    places = ("--data", data, "--runs", tmp_path / "runs", "--cache", tmp_path / "cache", "--run", "tiny", "--folds", 4)
    options = ("--architecture", "mobilenet", "--weights", "none", "--image-size", "32x40", "--precision", "float32")
    succeeded(type_command(*options, *places))
    model = tmp_path / "runs" / "tiny" / "bottleneck_mobilenet_logistic"
    fold_folder = model / "fold_1"
    tables = {"history.csv", "out_of_fold.csv", "out_of_fold_features.npy", "test.csv", "test_features.npy"}
    records = {"config.json", "log.txt", "finished.json"}
    assert {p.name for p in fold_folder.iterdir()} == {*tables, *records, "model.keras"}
    network = keras.saving.load_model(fold_folder / "model.keras", safe_mode=True)
    stored = read_predictions(fold_folder / "test.csv")
    pixels = np.stack([read_image(data / "imgs" / "test" / img, ImageSize(32, 40)) for img in stored.index])
    np.testing.assert_allclose(network.predict(pixels, verbose=0), stored[list(CLASSES)], atol=1e-4)
    folds = pd.read_csv(tmp_path / "runs" / "tiny" / "folds.csv")
    assert set(read_predictions(fold_folder / "out_of_fold.csv").index) == set(folds["img"][folds["fold"] == 1])

    assert "4 of 4 folds are finished already" in type_command(*options, *places).stderr
    other = type_command(*options, *places, "--regularisation", "0.5")
    assert other.returncode == 2
    assert "regularisation was 0.0, is now 0.5" in other.stderr

    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy")}
    assert kept, "the features are kept in the cache"
    succeeded(type_command(*options, *places, "--classifier", "svm"))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.npy")} == kept

    alone = ("--fold", 2, "--model-name", "alone", *options, *places)
    assert type_command(*alone).returncode == 0
    ours, theirs = (tmp_path / "runs" / "tiny" / name / "fold_2" / "test.csv" for name in ("alone", model.name))
    assert ours.read_bytes() == theirs.read_bytes()

    words = ("--run", "tiny", "--runs", tmp_path / "runs", "--data", data, "--submissions", tmp_path)
    succeeded(run_python("-m", "ensemble.blend", *words, "--models", f"{model.name} bottleneck_mobilenet_svm"))
    assert list(read_predictions(tmp_path / "tiny.csv").index) == list(stored.index)


def test_help_shows_the_defaults_of_the_architecture() -> None:
    assert "[mixed4,mixed7,mixed8]" in type_command("--help").stdout
    assert "[mixed4,mixed7,mixed8]" not in type_command("--architecture", "vgg16", "--help").stdout
    assert zoo.find("inception_v3").bottleneck_settings(True, {}).image_size == ImageSize(75, 100)
