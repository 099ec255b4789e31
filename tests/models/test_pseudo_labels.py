"""Pseudo-labels: fold k learns from fold k's predictions alone, beside the real images; and a training on everybody."""

import dataclasses
import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common.errors import UserError
from common.files import sha256_of
from common.run_folder import ALL_DRIVERS, CorruptedOutputError, RunFolder
from common.settings import ImageSize
from common.tables import geometric_mean, read_predictions, write_predictions
from models.finetuning import architecture as zoo
from models.finetuning.data.sources import Source, WithPseudoLabels, soft_targets
from models.finetuning.fold_run import FoldRun, find_tables
from models.finetuning.network.network import Network
from pipeline.train import unfinished
from preprocessing import dataset
from preprocessing.batches import training_order
from preprocessing.folds import ensure_folds
from preprocessing.images import ImageStore
from preprocessing.settings import Augmentation
from tests.commands import run_python, succeeded
from tests.fold_runs import finish_fold
from tests.trees import make_tree, write_image

IMAGES = [f"img_{number}.jpg" for number in range(12)]


def write_fold(run: Path, model: str, fold: int | str, seed: int, images: list[str] = IMAGES, **settings: str) -> None:
    """A finished fold run with test predictions."""
    probabilities = np.random.default_rng(seed).dirichlet(np.full(10, 0.3), len(images))
    folder = finish_fold(run, model, fold)
    write_predictions(folder / "test.csv", images[::-1], probabilities)
    finish_fold(run, model, fold, settings)


def learner(runs: Path, fold: int | str = 0) -> FoldRun:
    recipe, augmentation = zoo.find("vgg16").settings_for({"pseudo_labels": "first"})
    return FoldRun(
        *(RunFolder(runs / "second"), "mine", zoo.find("vgg16"), recipe, augmentation, runs), weights="none", fold=fold
    )


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """An earlier run of two models and two folds, and a run of the same folds that has nothing yet."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "folds.csv").write_text("img,subject,classname,fold\nimg_1.jpg,p1,c0,0\n")
    for number, model in enumerate(("vgg16", "mobilenet")):
        for fold in (0, 1):
            write_fold(tmp_path / "first", model, fold, 10 * number + fold)
    return tmp_path


def test_a_fold_reads_its_own_fold_of_every_model_in_log_space_and_notices_other_tables(runs: Path) -> None:
    tables = find_tables(RunFolder(runs / "second").fold("vgg16", 1), "first")
    assert tables == [runs / "first" / model / "fold_1" / "test.csv" for model in ("mobilenet", "vgg16")]
    soft = soft_targets(tables, IMAGES)
    expected = geometric_mean([read_predictions(path).loc[IMAGES].to_numpy() for path in tables])
    np.testing.assert_allclose(soft, expected, rtol=1e-6)
    assert soft.dtype == np.float32
    assert find_tables(RunFolder(runs / "second").fold("vgg16", 1), "first/vgg16") == tables[1:]
    before = learner(runs, 1).settings(IMAGES)
    for fold, changes in ((0, set()), (1, {"pseudo_labels_sha256"})):
        write_fold(runs / "first", "vgg16", fold, 99)
        after = learner(runs, 1).settings(IMAGES)
        assert {name for name in before if before[name] != after[name]} == changes
    tables[0].write_bytes(tables[0].read_bytes()[:-3])
    with pytest.raises(CorruptedOutputError, match=r"mobilenet/fold_1/test\.csv is corrupted"):
        learner(runs, 1).settings(IMAGES)


def test_a_table_of_other_folds_than_its_run_has_now_is_refused(runs: Path) -> None:
    write_fold(runs / "first", "vgg16", 1, 98, folds_sha256=sha256_of(runs / "second" / "folds.csv"))
    assert len(find_tables(RunFolder(runs / "second").fold("vgg16", 1), "first")) == 2
    write_fold(runs / "first", "vgg16", 1, 98, folds_sha256="another")
    with pytest.raises(UserError, match="fold_1 was trained on other folds than its run's"):
        find_tables(RunFolder(runs / "second").fold("vgg16", 1), "first")
    assert len(find_tables(RunFolder(runs / "second").fold("vgg16", 0), "first")) == 2


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("third", "is no run"),
        ("../first", "expected letters"),
        ("first/vgg19", "expected a finished .*fold_0, found mobilenet/fold_0"),
        ("first/vgg16,mobilnet", "expected a finished .*mobilnet/fold_0, found mobilenet/fold_0"),
        ("second", "that is this run itself"),
        ("second/mine", "that is this run itself"),
    ],
)
def test_what_cannot_be_read_is_one_line(runs: Path, source: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_tables(RunFolder(runs / "second").fold("mine", 0), source)


def test_a_run_of_other_folds_and_a_table_without_an_image_are_refused(runs: Path) -> None:
    (runs / "second" / "folds.csv").write_text("img,subject,classname,fold\nimg_1.jpg,p1,c0,1\n")
    with pytest.raises(UserError, match="may have seen drivers that are held out here"):
        find_tables(RunFolder(runs / "second").fold("mine", 0), "first")
    with pytest.raises(UserError, match=r"lacks 1: img_99\.jpg"):
        soft_targets([runs / "first" / "vgg16" / "fold_0" / "test.csv"], [*IMAGES, "img_99.jpg"])


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs requirements/ray.txt")
def test_a_node_of_a_cluster_finds_what_it_learns_from(runs: Path) -> None:
    from pipeline.ray import files_of, received

    recipe, _ = zoo.find("vgg16").settings_for({"pseudo_labels": "first", "pseudo_clusters": True})
    work = dataclasses.replace(learner(runs), recipe=recipe)
    (runs / "node").mkdir()
    tables = received(runs / "node", files_of(work, [0])).pseudo_tables()
    assert len(tables) == 2 and all(runs / "node" in table.parents for table in tables)
    np.testing.assert_array_equal(soft_targets(tables, IMAGES), soft_targets(work.pseudo_tables(), IMAGES))


def test_folds_that_would_learn_from_other_models_than_each_other_are_refused_before_any_trains(runs: Path) -> None:
    work, folds = learner(runs), [0, 1, ALL_DRIVERS]
    checked = dataset.Dataset(runs, pd.DataFrame(), IMAGES, frozenset(), pd.DataFrame(), "")
    shutil.rmtree(runs / "first" / "mobilenet" / "fold_0")
    with pytest.raises(UserError, match=r"\{0: \['vgg16'\], 1: \['mobilenet', 'vgg16'\]\}\. Finish"):
        unfinished(work, folds, checked)
    assert len(unfinished(work, folds[1:], checked)) == 2, "who learns from all drivers may have more teachers"


def test_batches_have_the_real_images_as_without_and_test_images_with_soft_targets_behind(tmp_path: Path) -> None:
    stores = []
    for name, count, darkest in (("real", 20, 0), ("test", 7, 4)):
        paths = [tmp_path / f"{name}_{row}.jpg" for row in range(count)]
        for row, path in enumerate(paths):
            write_image(path, np.full((24, 32, 3), 8 * row + darkest, np.uint8))
        stores.append(ImageStore(paths, ImageSize(24, 32), tmp_path, name, 0))
    network: Network = None  # type: ignore[assignment]
    real, test = (Source(network, store, Augmentation.neutral(), 0, 2) for store in stores)
    soft = np.random.default_rng(0).dirichlet(np.ones(10), 7).astype(np.float32)
    both = WithPseudoLabels(real, test, soft, ratio=2.0)
    targets = np.eye(10, dtype=np.float32)[np.arange(20) // 2]
    seen: list[int] = []
    for epoch in (1, 2):
        order = training_order(np.arange(20), 8, 0, epoch)
        plain, made = list(real.batches(targets, order, epoch)), list(both.batches(targets, order, epoch))
        for (images, wanted), (without, labels) in zip(made, plain, strict=True):
            assert len(images) == len(wanted) == 8 + 4
            np.testing.assert_array_equal(images[:8], without)
            np.testing.assert_array_equal(wanted[:8], labels)
            rows = np.rint((images[8:].mean(axis=(1, 2, 3)) - 4) / 8).astype(int)
            np.testing.assert_array_equal(wanted[8:], soft[rows])
            seen += rows.tolist()
    assert np.ptp(np.bincount(seen, minlength=7)) <= 2, "each comes again only after all others"
    assert seen[: len(seen) // 2] != seen[len(seen) // 2 :], "another order in each epoch"


def train(folder: Path, runs: str, *words: str) -> None:
    places = ["--data", folder / "data", "--runs", folder / runs, "--cache", folder / "cache", "--folds", "2"]
    options = "--weights none --image-size 32x32 --precision float32 --epochs 1 --run second --head-start logistic"
    options += " --trainable head --batch-norm inference --learning-rate 1e-4"
    succeeded(run_python("models/mobilenet.py", *places, *options.split(), *words, timeout=400))


@pytest.mark.slow
def test_poison_in_other_folds_leaves_the_same_bytes_and_all_drivers_leave_test_predictions_alone(
    tmp_path: Path,
) -> None:
    data = dataset.load(make_tree(tmp_path / "data"), tmp_path / "cache")
    ensure_folds(tmp_path / "runs" / "first" / "folds.csv", data.train, 2)
    for fold in (0, 1):
        write_fold(tmp_path / "runs" / "first", "vgg16", fold, fold, data.test)
    for copy, fold in (("poisoned", 1), ("own_poisoned", 0)):
        shutil.copytree(tmp_path / "runs", tmp_path / copy)
        write_fold(tmp_path / copy / "first", "vgg16", fold, 78, data.test)
    for runs in ("runs", "poisoned", "own_poisoned"):
        train(tmp_path, runs, "--fold", "0", "--pseudo-labels", "first", "--tta", "2")
    folders = [tmp_path / runs / "second" / "mobilenet" / "fold_0" for runs in ("runs", "poisoned", "own_poisoned")]
    for name in ("out_of_fold.csv", "test.csv", "test_without_tta.csv", "test_features.npy"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    assert (folders[0] / "test.csv").read_bytes() != (folders[0] / "test_without_tta.csv").read_bytes()
    losses = [pd.read_csv(folder / "history.csv")["training_loss"].tolist() for folder in folders]
    assert losses[0] == losses[1], "what was learned, even where no epoch was better than none"
    assert losses[0] != losses[2], "the fold's own table is learned from"
    assert "pseudo-labels of 6 test images from 1 tables" in (folders[0] / "log.txt").read_text()

    train(tmp_path, "runs", "--fold", "all", "--model-name", "everybody", "--pseudo-labels", "first")
    folder = tmp_path / "runs" / "second" / "everybody" / "fold_all"
    assert not list(folder.glob("out_of_fold*"))
    assert "80 training images, 0 of held-out drivers" in (folder / "log.txt").read_text()
    assert len(read_predictions(folder / "test.csv")) == len(data.test)
    assert pd.read_csv(folder / "history.csv")["held_out_log_loss"].isna().all()
