"""A fold from photographs to files: it learns, and each row that it writes is of the image that the row names."""

import math
from dataclasses import dataclass

import keras
import numpy as np
import pandas as pd
import pytest

from common.competition import CLASSES
from common.metric import log_loss
from common.run_folder import RunFolder
from common.settings import ImageSize
from common.tables import geometric_mean, read_predictions
from models.finetuning import architecture as zoo
from models.finetuning.data.sources import TTA, fold_data
from models.finetuning.fold import train_fold
from models.finetuning.fold_run import FoldRun
from preprocessing import dataset
from preprocessing.batches import Augmented
from preprocessing.dataset import Dataset
from preprocessing.folds import ensure_folds
from preprocessing.images import ImageStore
from tests.trees import make_tree

SIZE = ImageSize(32, 40)
SETTINGS = {
    **{"image_size": SIZE, "pooled_layers": ("block2_pool",), "pooling": "flatten", "train_images": 0, "tta": 1},
    **{"head_start": "zero", "epochs": 2, "batch_size": 16, "learning_rate": 1e-4, "judge_every": 1},
    **{"augmentation": 0.3},
}


@dataclass(frozen=True)
class Trained:
    """A finished fold, its data, and the network that it saved."""

    work: FoldRun
    dataset: Dataset
    folds: pd.DataFrame
    network: keras.Model

    @property
    def held_out(self) -> pd.DataFrame:
        return self.folds[self.folds["fold"] == self.work.fold]

    def table(self, name: str, images: list[str]) -> np.ndarray:
        return read_predictions(self.work.folder / name).loc[images, list(CLASSES)].to_numpy()

    def predict(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities and features, by the saved network."""
        (flatten,) = [layer for layer in self.network.layers if isinstance(layer, keras.layers.Flatten)]
        probabilities, features = keras.Model(self.network.input, [self.network.outputs[0], flatten.output])(pixels)
        return keras.ops.convert_to_numpy(probabilities), keras.ops.convert_to_numpy(features)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The cut of VGG16 on four of six drivers; the second of nine test images cannot be read."""
    folder = tmp_path_factory.mktemp("fold")
    root = make_tree(folder / "data", drivers=6, test_images=9)
    (folder / "run").mkdir()
    broken = pd.read_csv(root / "sample_submission.csv")["img"][1]
    (root / "imgs" / "test" / broken).write_bytes(b"")
    found = dataset.load(root, folder / "cache", skip_broken=True)
    folds = ensure_folds(folder / "run" / "folds.csv", found.train, 3)
    vgg16 = zoo.find("vgg16")
    recipe, augmentation = vgg16.settings_for(SETTINGS, scratch=True, quick=True)
    places = (RunFolder(folder / "run"), "vgg16", vgg16, recipe, augmentation, root)
    work = FoldRun(*places, weights="none", precision="float32", cache=folder / "cache", workers=2, fold=1)
    train_fold(work, found, folds)
    return Trained(work, found, folds, keras.saving.load_model(work.folder / "model.keras", safe_mode=True))


def test_it_learns(trained: Trained) -> None:
    history = pd.read_csv(trained.work.folder / "history.csv")
    assert len(history) == 2
    assert history["held_out_log_loss"].min() < 1.5, "knowing nothing costs 2.30"
    labels = trained.held_out["classname"].map(CLASSES.index).to_numpy()
    written = trained.table("out_of_fold.csv", trained.held_out["img"].tolist())
    assert log_loss(written, labels) < 1.5 < math.log(10) - 0.5
    assert np.mean(written.argmax(axis=1) == labels) > 0.9, "each class in its own column"


def test_each_row_is_the_saved_network_s_prediction_of_its_image(trained: Trained) -> None:
    readable = [img for img in trained.dataset.test if img not in trained.dataset.broken_test]
    held_out = np.flatnonzero(trained.folds["fold"] == trained.work.fold)
    every = [trained.dataset.train_path(row.img, row.classname) for row in trained.folds.itertuples()]
    for table, paths, rows, images in (
        ("out_of_fold", every, held_out, trained.held_out["img"].tolist()),
        ("test", [trained.dataset.test_path(img) for img in readable], range(len(readable)), readable),
    ):
        store = ImageStore(paths, SIZE, trained.work.run.path / "none", "", 0)
        seen = [store, Augmented(store, TTA, trained.work.seed, 1)]
        (plain, features), (turned, _) = (trained.predict(np.stack([x.read(int(row)) for row in rows])) for x in seen)
        assert np.abs(plain - np.roll(plain, 1, axis=0)).max(axis=1).min() > 1e-4, "no two rows are alike"
        np.testing.assert_allclose(trained.table(f"{table}_without_tta.csv", images), plain, atol=1e-5)
        np.testing.assert_allclose(trained.table(f"{table}.csv", images), geometric_mean([plain, turned]), atol=1e-5)
        order = pd.read_csv(trained.work.folder / f"{table}.csv")["img"]
        stored = pd.DataFrame(np.load(trained.work.folder / f"{table}_features.npy"), order)
        np.testing.assert_allclose(stored.loc[images], features, rtol=2e-3, atol=1e-3)
        assert not stored.drop(images).any(axis=None), "an image that cannot be read has none"


def test_no_driver_who_is_held_out_is_trained_on(trained: Trained) -> None:
    work = trained.work
    data = fold_data(work.recipe, work.fold, trained.folds, ImageStore([], SIZE, work.run.path, "", 0))
    drivers = trained.folds["subject"].to_numpy()
    assert set(drivers[data.held_out]) == set(trained.held_out["subject"])
    assert set(drivers[data.training]) == set(drivers) - set(drivers[data.held_out])
    assert len(data.training) + len(data.held_out) == len(trained.folds)
