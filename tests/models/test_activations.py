"""Activations of frozen layers, computed once: the same model as without, shared by folds, bounded, and mendable."""

import re
from pathlib import Path

import keras
import ml_dtypes
import numpy as np
import pandas as pd
import pytest

from common.settings import ImageSize
from models.finetuning import architecture as zoo
from models.finetuning.architecture import Recipe
from models.finetuning.data import activations
from models.finetuning.data.activations import PLAIN, ActivationCache, ActivationStore, split
from models.finetuning.data.sources import FoldData, Source
from models.finetuning.network.build import build
from models.finetuning.network.network import Network, set_trainable
from preprocessing import dataset
from preprocessing.images import ImageStore
from preprocessing.settings import Augmentation
from tests.commands import run_python, succeeded
from tests.trees import make_tree

SIZE = ImageSize(48, 64)


def cut(name: str, trainable: str, precision: str = "float32", **changes: object) -> tuple[Network, Recipe]:
    recipe, _ = zoo.find(name).settings_for({"image_size": ImageSize(80, 96), "trainable": trainable} | changes)
    network = build(zoo.find(name), recipe, "none", precision, seed=1)
    set_trainable(network, recipe, head_only=False)
    return network, recipe


def images_in(folder: Path, size: ImageSize, **tree: int) -> ImageStore:
    """The labelled images of a tiny tree, with a cache beside it."""
    found = dataset.load(make_tree(folder / "data", **tree), folder / "cache")
    paths = [found.train_path(row.img, row.classname) for row in found.train.itertuples()]
    return ImageStore(paths, size, folder / "cache", found.fingerprint, 2**30)


@pytest.mark.parametrize(
    ("name", "trainable", "boundary", "changes"),
    [
        # mixed7 is pooled itself, and so passed on
        pytest.param(
            "inception_v3", "from mixed7", "mixed7", {"pooled_layers": ("mixed7", "mixed8")}, marks=pytest.mark.slow
        ),
        ("mobilenet_v2", "from block_8_project", "block_7_add", {}),  # the cut leads past no shortcut
        ("vgg16", "from block5", "block4_pool", {"pooled_layers": ()}),
        ("vgg16", "from block5", "block3_pool", {}),  # the head also sees block3
        ("vgg16", "from block4", "block3_pool", {"pooled_layers": ("block5_pool", "block3_pool"), "pooling": "avgmax"}),
        ("vgg16", "head", "features", {}),
    ],
)
def test_the_trunk_ends_where_training_begins(name: str, trainable: str, boundary: str, changes: dict) -> None:
    network, recipe = cut(name, trainable, **changes)
    parts = split(network, recipe)
    assert parts is not None
    assert parts.name == boundary
    trained = [variable.path for variable in parts.top.training.trainable_variables]
    assert trained == [variable.path for variable in network.training.trainable_variables]
    images = np.random.default_rng(0).integers(0, 255, (3, 80, 96, 3), dtype=np.uint8)
    expected = network.predictor.predict_on_batch(images)
    found = parts.top.predictor.predict_on_batch(parts.trunk.predict_on_batch(images))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "trainable"),
    [
        ("vgg16", "all"),
        ("resnet50", "all"),  # below its first convolution lies a padding
        ("googlenet", "from inception_4b"),
        # it drops blocks at random, frozen or not
        pytest.param("efficientnet_v2_s", "from block6a", marks=pytest.mark.slow),
        pytest.param("efficientnet_v2_s", "head", marks=pytest.mark.slow),
    ],
)
def test_nothing_is_cut_where_all_trains_or_the_frozen_part_is_not_alone(name: str, trainable: str) -> None:
    network, recipe = cut(name, trainable)
    assert split(network, recipe) is None


@pytest.mark.parametrize(("precision", "dtype"), [("float32", np.float32), ("mixed_bfloat16", ml_dtypes.bfloat16)])
def test_blocks_hold_what_the_trunk_makes_and_a_damaged_one_is_made_again(
    tmp_path: Path, precision: str, dtype: type
) -> None:
    parts = split(*cut("vgg16", "from block2", precision, image_size=SIZE))
    assert parts is not None
    images = images_in(tmp_path, SIZE)
    store = ActivationStore(tmp_path / "cache", "vgg16", {}, parts.trunk, images, 2)
    rows = np.array([70, 3, 5])
    part = store.part(PLAIN, images, rows)
    expected = parts.trunk.predict_on_batch(np.stack([images.read(int(row)) for row in rows]))
    values = np.stack([part.read(int(row)) for row in rows])
    assert values.dtype == dtype
    tolerance = 1e-4 if precision == "float32" else 2e-2
    np.testing.assert_allclose(values.astype(np.float32), np.float32(expected), rtol=tolerance, atol=tolerance)

    (file,) = store.folder.glob("*.npy")
    made = file.stat().st_mtime_ns
    store.part(PLAIN, images, rows)
    assert file.stat().st_mtime_ns == made  # found, not made
    file.write_bytes(file.read_bytes()[:-100])
    again = store.part(PLAIN, images, rows)
    np.testing.assert_array_equal(again.read(3), part.read(3))


def test_what_does_not_fit_is_computed_again_from_photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activations, "BLOCK", 16)
    network, recipe = cut("mobilenet_v2", "from block_8_project", epochs=2)
    images = images_in(tmp_path, recipe.image_size)
    images.prepare(2)
    parts = split(network, recipe)
    assert parts is not None
    rows = np.random.default_rng(0).permutation(80)
    all_plain = ActivationStore(tmp_path / "cache", "n", {}, parts.trunk, images, 1).missing_bytes([PLAIN], rows)
    taken = sum(path.stat().st_size for path in (tmp_path / "cache" / "images").rglob("*.npy"))
    data = FoldData(images, np.zeros(80, int), rows[:60], rows[60:])
    plain = Source(network, images, Augmentation(), 0, 2)
    said: list[str] = []

    for limit, fits in ((taken + 2 * all_plain, False), (2**30, True)):
        cache = ActivationCache(parts, tmp_path / "cache", limit, "n", {}, said.append)
        source, _ = cache.sources(plain, plain, data, recipe)
        assert (source is plain) != fits
        for one, other in zip(source.predict(rows, ""), plain.predict(rows, ""), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
        inputs, _ = next(iter(source.batches(np.zeros((80, 10), np.float32), rows[None, :8], 1)))
        assert inputs.shape == (8, *(parts.trunk.output.shape[1:] if fits else (80, 96, 3)))
    assert "do not fit" in said[0]
    assert len(list((tmp_path / "cache" / "activations").rglob("plain_*.npy"))) == 5


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("material")
    make_tree(folder / "data", drivers=3)
    (folder / "weights").mkdir()
    keras.applications.MobileNet(weights=None, include_top=False).save_weights(folder / "weights/mobilenet.weights.h5")
    return folder


def train(material: Path, run: str, fold: int, *options: str) -> str:
    places = [word for name in ("data", "weights", "runs", "cache") for word in (f"--{name}", material / name)]
    words = ["--folds", "3", "--image-size", "48x64", "--epochs", "2", "--batch-size", "8", "--precision", "float32"]
    words += ["--verbose", "--trainable", "from conv_pw_11", *options]  # the last of two options wins
    words += ["--run", run, "--fold", str(fold)]
    return succeeded(run_python("models/mobilenet.py", *places, *words, timeout=400)).stdout


@pytest.mark.slow
def test_a_fold_trained_on_activations_is_the_fold_trained_on_pixels(material: Path) -> None:
    said = train(material, "kept", 0)
    assert re.search(r"activations at conv_dw_11_relu for 60 images are computed once", said)
    before = {path: path.stat().st_mtime_ns for path in (material / "cache" / "activations").rglob("*.npy")}
    assert sorted(path.name for path in before) == [
        "epoch_001_block_00000.npy", "epoch_002_block_00000.npy", "plain_block_00000.npy", "plain_block_00000.npy"
    ]  # fmt: skip

    train(material, "kept", 1)  # the second fold finds all of it
    assert {path: path.stat().st_mtime_ns for path in (material / "cache" / "activations").rglob("*.npy")} == before
    assert "activations" not in train(material, "again", 1, "--activations", "no")
    for name in ("out_of_fold.csv", "test.csv"):
        paths = [material / "runs" / run / "mobilenet" / "fold_1" / name for run in ("kept", "again")]
        np.testing.assert_allclose(*(pd.read_csv(path, index_col="img") for path in paths), atol=1e-5)
