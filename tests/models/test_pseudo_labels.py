"""Pseudo-labels: fold k learns from fold k's predictions alone, beside the real images; and a training on everybody."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common.errors import UserError
from common.files import sha256_of
from common.run_folder import ALL_DRIVERS, RunFolder
from common.settings import ImageSize
from common.tables import geometric_mean, read_predictions, write_predictions
from models.finetuning import architecture as zoo
from models.finetuning.data.pseudo_labels import find_tables, identity, matched, soft_targets
from models.finetuning.data.sources import Source, WithPseudoLabels
from models.finetuning.fold_run import FoldRun
from models.finetuning.interface import finetune
from models.finetuning.network.network import Network
from models.finetuning.recipe import Kind
from pipeline.train import unfinished
from preprocessing import dataset
from preprocessing.batches import training_order
from preprocessing.folds import ensure_folds
from preprocessing.images import ImageStore
from preprocessing.settings import Augmentation
from tests.commands import run_python
from tests.trees import make_tree, scene, write_image, write_noisy

IMAGES = [f"img_{number}.jpg" for number in range(12)]


def write_fold(run: Path, model: str, fold: int | str, seed: int, images: list[str] = IMAGES, **settings: str) -> Path:
    """A finished fold run with test predictions; returns their table."""
    folder = RunFolder(run).fold(model, fold)
    folder.path.mkdir(parents=True, exist_ok=True)
    probabilities = np.random.default_rng(seed).dirichlet(np.full(10, 0.3), len(images))
    write_predictions(folder / "test.csv", images[::-1], probabilities)
    folder.start({"settings": settings})
    folder.finish({}, ["test.csv"])
    return folder / "test.csv"


def learner(runs: Path, fold: int | str = 0) -> FoldRun:
    recipe, augmentation = zoo.find("vgg16").settings_for(Kind(), {"pseudo_labels": "first"})
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


def test_a_fold_reads_its_own_fold_of_every_model_in_log_space(runs: Path) -> None:
    tables = find_tables(RunFolder(runs / "second").fold("vgg16", 1), "first")
    assert tables == [runs / "first" / model / "fold_1" / "test.csv" for model in ("mobilenet", "vgg16")]
    soft = soft_targets(tables, IMAGES)
    expected = geometric_mean([read_predictions(path).loc[IMAGES].to_numpy() for path in tables])
    np.testing.assert_allclose(soft, expected, rtol=1e-6)
    assert soft.dtype == np.float32
    assert find_tables(RunFolder(runs / "second").fold("vgg16", 1), "first/vgg16") == tables[1:]
    assert find_tables(RunFolder(runs / "first").fold("again", 0), "first/vgg16") == [
        runs / "first/vgg16/fold_0/test.csv"
    ]


def test_poisoned_tables_of_other_folds_change_nothing_and_are_not_read(runs: Path) -> None:
    tables = find_tables(RunFolder(runs / "second").fold("vgg16", 0), "first")
    before, known = soft_targets(tables, IMAGES), identity(tables)
    for fold in (1, "all"):
        folder = runs / "first" / "vgg16" / f"fold_{fold}"
        write_fold(runs / "first", "vgg16", fold, 98)
        (folder / "test.csv").write_text("poison")
    write_fold(runs / "first", "ensemble", 0, 99)  # made from all folds
    again = find_tables(RunFolder(runs / "second").fold("vgg16", 0), "first")
    assert again == tables
    assert identity(again) == known
    np.testing.assert_array_equal(soft_targets(again, IMAGES), before)
    tables[0].write_text(tables[0].read_text().replace("0.1", "0.2"))
    assert identity(tables) != known, "its own tables decide"


def test_a_table_of_other_folds_than_its_run_has_now_is_refused(runs: Path) -> None:
    folder = runs / "first" / "vgg16" / "fold_1"
    for folds, refused in ((runs / "second" / "folds.csv", False), (folder / "test.csv", True)):
        write_fold(runs / "first", "vgg16", 1, 98, folds_sha256=sha256_of(folds))
        if not refused:
            assert len(find_tables(RunFolder(runs / "second").fold("vgg16", 1), "first")) == 2
            continue
        with pytest.raises(UserError, match="fold_1 was trained on other folds than its run's"):
            find_tables(RunFolder(runs / "second").fold("vgg16", 1), "first")
        assert len(find_tables(RunFolder(runs / "second").fold("vgg16", 0), "first")) == 2


def test_a_training_on_all_drivers_reads_every_fold(runs: Path) -> None:
    assert len(find_tables(RunFolder(runs / "second").fold("vgg16", "all"), "first")) == 4


WRONG = {
    "no such run": ("third", "is no run"),
    "no name of a run": ("../first", "expected letters"),
    "no such model": ("first/vgg19", "expected a finished"),
    "its own run": ("second", "this run itself"),
    "itself": ("second/mine", "this run itself"),
}


@pytest.mark.parametrize("case", sorted(WRONG))
def test_what_cannot_be_read_is_one_line(runs: Path, case: str) -> None:
    source, message = WRONG[case]
    with pytest.raises(UserError, match=message):
        find_tables(RunFolder(runs / "second").fold("mine", 0), source)


def test_a_run_that_lacks_the_fold_or_has_other_folds_is_refused(runs: Path) -> None:
    with pytest.raises(UserError, match=r"expected a finished .*fold_2, found mobilenet/fold_0"):
        find_tables(RunFolder(runs / "second").fold("mine", 2), "first")
    (runs / "second" / "folds.csv").write_text("img,subject,classname,fold\nimg_1.jpg,p1,c0,1\n")
    with pytest.raises(UserError, match="may have seen drivers that are held out here"):
        find_tables(RunFolder(runs / "second").fold("mine", 0), "first")
    with pytest.raises(UserError, match=r"lacks 1: img_99\.jpg"):
        soft_targets([runs / "first" / "vgg16" / "fold_0" / "test.csv"], [*IMAGES, "img_99.jpg"])


def test_contradictions_are_refused(runs: Path) -> None:
    with pytest.raises(UserError, match="--pseudo-ratio without --pseudo-labels"):
        zoo.find("vgg16").settings_for(Kind(), {"pseudo_ratio": 1.0})
    with pytest.raises(UserError, match=r"python models/vgg16\.py --pseudo-labels first"):
        finetune("vgg16", weights="none", pseudo_labels="first")


def test_what_was_read_is_part_of_the_settings(runs: Path) -> None:
    work = learner(runs)
    before = work.settings(IMAGES)
    assert before["pseudo_labels"] == "first"
    write_fold(runs / "first", "vgg16", 0, 99)
    after = work.settings(IMAGES)
    assert {name for name in before if before[name] != after[name]} == {"pseudo_labels_sha256"}
    assert after["pseudo_labels_models"] == ["mobilenet", "vgg16"]
    plain = dataclasses.replace(work, recipe=dataclasses.replace(work.recipe, pseudo_labels=""))
    assert "pseudo_labels_sha256" not in plain.settings(IMAGES)


def test_folds_that_would_learn_from_other_models_than_finished_ones_are_refused(runs: Path) -> None:
    first, second = learner(runs), learner(runs, 1)
    first.folder.path.mkdir(parents=True)
    first.start(first.settings(IMAGES), {})
    first.folder.finish({}, [])
    second.require_same_settings(second.settings(IMAGES))
    shutil.rmtree(runs / "first" / "mobilenet" / "fold_1")
    with pytest.raises(UserError, match=r"pseudo_labels_models was \['mobilenet', 'vgg16'\], is now \['vgg16'\]"):
        second.require_same_settings(second.settings(IMAGES))


def test_folds_that_would_learn_from_other_models_than_each_other_are_refused_before_any_trains(runs: Path) -> None:
    work, folds = learner(runs), [0, 1, ALL_DRIVERS]
    checked = dataset.Dataset(runs, pd.DataFrame(), IMAGES, frozenset(), pd.DataFrame(), "")
    shutil.rmtree(runs / "first" / "mobilenet" / "fold_0")
    with pytest.raises(UserError, match=r"fold 0 from vgg16; fold 1 from mobilenet and vgg16\. Finish") as caught:
        unfinished(work, folds, checked)
    assert "--pseudo-labels first/MODEL" in str(caught.value)
    assert len(unfinished(work, folds[1:], checked)) == 2, "who learns from all drivers may have more teachers"


@pytest.mark.parametrize(("ratio", "besides"), [(2.0, 4), (0.5, 16), (100.0, 1)])
def test_batches_have_the_real_images_as_without_and_test_images_with_soft_targets_behind(
    tmp_path: Path, ratio: float, besides: int
) -> None:
    stores = []
    for name, count in (("real", 20), ("test", 7)):
        paths = [tmp_path / f"{name}_{row}.jpg" for row in range(count)]
        for row, path in enumerate(paths):
            write_image(path, np.full((24, 32, 3), 8 * row + (4 if name == "test" else 0), np.uint8))
        stores.append(ImageStore(paths, ImageSize(24, 32), tmp_path, name, 0))
    network: Network = None  # type: ignore[assignment]
    augmentation = Augmentation.neutral()
    real = Source(network, stores[0], augmentation, 0, 2)
    test = Source(network, stores[1], augmentation, 0, 2)
    soft = np.random.default_rng(0).dirichlet(np.ones(10), 7).astype(np.float32)
    both = WithPseudoLabels(real, test, soft, ratio)
    targets = np.eye(10, dtype=np.float32)[np.arange(20) // 2]
    seen: list[int] = []
    epochs = []
    for epoch in (1, 2):
        order = training_order(np.arange(20), 8, 0, epoch)
        plain = list(real.batches(targets, order, epoch))
        made = list(both.batches(targets, order, epoch))
        for (images, wanted), (without, labels) in zip(made, plain, strict=True):
            assert len(images) == len(wanted) == 8 + besides
            np.testing.assert_array_equal(images[:8], without)
            np.testing.assert_array_equal(wanted[:8], labels)
            rows = np.rint((images[8:].mean(axis=(1, 2, 3)) - 4) / 8).astype(int)
            np.testing.assert_array_equal(wanted[8:], soft[rows])
            seen += rows.tolist()
        epochs.append([images[8:] for images, _ in made])
        again = [images for images, _ in both.batches(targets, order, epoch)]
        np.testing.assert_array_equal(np.stack(again), np.stack([images for images, _ in made]))
    counts = np.bincount(seen, minlength=7)
    assert np.ptp(counts) <= 2, "each comes again only after all others"
    assert not np.array_equal(np.stack(epochs[0]), np.stack(epochs[1]))


def train(folder: Path, runs: str, *words: str) -> None:
    places = ["--data", folder / "data", "--runs", folder / runs, "--cache", folder / "cache", "--folds", "2"]
    options = "--weights none --image-size 32x32 --precision float32 --epochs 1 --run second --head-start logistic"
    options += " --trainable head --batch-norm inference --learning-rate 1e-4"
    told = run_python("models/mobilenet.py", *places, *options.split(), *words, timeout=400)
    assert told.returncode == 0, told.stderr


@pytest.mark.slow
def test_poison_in_other_folds_leaves_the_same_bytes_and_all_drivers_leave_test_predictions_alone(
    tmp_path: Path,
) -> None:
    data = dataset.load(make_tree(tmp_path / "data"), tmp_path / "cache")
    ensure_folds(tmp_path / "runs" / "first" / "folds.csv", data.train, 2)
    for fold in (0, 1):
        write_fold(tmp_path / "runs" / "first", "vgg16", fold, fold, data.test)
    shutil.copytree(tmp_path / "runs", tmp_path / "poisoned")
    write_fold(tmp_path / "poisoned" / "first", "mobilenet", 1, 77, data.test)
    shutil.rmtree(tmp_path / "poisoned" / "first" / "vgg16" / "fold_1")
    write_fold(tmp_path / "poisoned" / "first", "vgg16", 1, 78, data.test)
    shutil.copytree(tmp_path / "runs", tmp_path / "own_poisoned")
    shutil.rmtree(tmp_path / "own_poisoned" / "first" / "vgg16" / "fold_0")
    write_fold(tmp_path / "own_poisoned" / "first", "vgg16", 0, 78, data.test)
    for runs in ("runs", "poisoned", "own_poisoned"):
        train(tmp_path, runs, "--fold", "0", "--pseudo-labels", "first", "--tta", "2")
    folders = [tmp_path / runs / "second" / "mobilenet" / "fold_0" for runs in ("runs", "poisoned", "own_poisoned")]
    names = ["out_of_fold.csv", "test.csv", "out_of_fold_without_tta.csv", "test_without_tta.csv", "test_features.npy"]
    for name in names:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    assert (folders[0] / "test.csv").read_bytes() != (folders[0] / "test_without_tta.csv").read_bytes()
    losses = [pd.read_csv(folder / "history.csv")["training_loss"].tolist() for folder in folders]
    assert losses[0] == losses[1], "what was learned, even where no epoch was better than none"
    assert losses[0] != losses[2], "the fold's own table is learned from"
    assert "pseudo-labels of 6 test images from 1 tables" in (folders[0] / "log.txt").read_text()
    results = json.loads((folders[0] / "finished.json").read_text())
    assert {"log_loss", "log_loss_without_tta", "accuracy_without_tta"} <= set(results)

    for _ in range(2):  # the second time there is nothing to do
        train(tmp_path, "runs", "--fold", "all", "--model-name", "everybody", "--pseudo-labels", "first")
    folder = tmp_path / "runs" / "second" / "everybody" / "fold_all"
    left = {path.name for path in folder.iterdir()}
    assert {"test.csv", "test_features.npy", "model.keras", "finished.json"} <= left
    assert not any(name.startswith("out_of_fold") for name in left)
    assert "80 training images, 0 of held-out drivers" in (folder / "log.txt").read_text()
    assert (folder / "log.txt").read_text().count("training images") == 1
    assert len(read_predictions(folder / "test.csv")) == len(data.test)
    history = pd.read_csv(folder / "history.csv")
    assert history["held_out_log_loss"].isna().all()


def test_soft_targets_of_each_driver_are_moved_towards_the_mix_of_training(tmp_path: Path) -> None:
    random, paths = np.random.default_rng(0), []
    for driver in range(2):
        background = scene(random)
        for image in range(40):
            paths.append(tmp_path / f"{driver}_{image}.jpg")
            write_noisy(paths[-1], background, random)
    classes, drivers = np.arange(80) % 10, np.arange(80) // 40
    soft = np.full((80, 10), 0.02)
    soft[np.arange(80), classes] = 0.5
    soft[np.arange(80), drivers] += 0.4  # each driver is taken for one class too often
    soft /= soft.sum(axis=1, keepdims=True)
    after = matched(soft.astype(np.float32), paths, np.arange(10), workers=1)
    assert after.dtype == np.float32
    np.testing.assert_allclose(after.sum(axis=1), 1, atol=1e-5)
    true = np.arange(80), classes
    assert after[true].mean() > soft[true].mean() + 0.1
    for driver in range(2):
        rows = drivers == driver
        assert after[rows, driver].mean() < soft[rows, driver].mean() - 0.1
