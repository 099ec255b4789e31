"""What a fold run leaves: written part by part, the same as at once."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from common.run_folder import RunFolder
from common.settings import ImageSize
from models.finetuning import architecture as zoo
from models.finetuning import outputs
from models.finetuning.data.sources import Source
from models.finetuning.fold_run import FoldRun
from models.finetuning.network.build import build
from models.finetuning.recipe import Kind
from preprocessing import dataset
from preprocessing.images import ImageStore
from tests.trees import make_tree


def test_features_of_many_test_images_are_written_some_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_tree(tmp_path / "data")
    broken = sorted((root / "imgs" / "test").iterdir())[1]
    broken.write_bytes(b"")
    found = dataset.load(root, cache=tmp_path / "cache", skip_broken=True)
    assert found.broken_test == {broken.name}
    paths = [found.test_path(img) for img in found.test if img not in found.broken_test]
    store = ImageStore(paths, ImageSize(32, 32), tmp_path / "cache", found.fingerprint, 2**30)
    vgg16 = zoo.find("vgg16")
    recipe, augmentation = vgg16.settings_for(
        Kind(), {"image_size": ImageSize(32, 32), "pooled_layers": ("block3_pool",)}
    )
    source = Source(build(vgg16, recipe, "none", "float32", 0), store, augmentation, seed=0, workers=2)
    work = FoldRun(RunFolder(tmp_path / "run"), "vgg16", vgg16, recipe, augmentation, root, weights="none")
    left = []
    for part in (4096, 2):
        monkeypatch.setattr(outputs, "PART", part)
        work.folder.path.mkdir(parents=True)
        probabilities = outputs._predict_test(work, found, source)
        left.append((probabilities, np.load(work.folder / "test_features.npy")))
        shutil.rmtree(work.folder.path)
    (whole, features), (parts, same_features) = left
    assert len(whole) == len(paths) > 2 * 2
    np.testing.assert_allclose(parts, whole, atol=1e-5)
    assert features.shape == (len(found.test), 256)
    np.testing.assert_allclose(same_features, features, atol=1e-2)
    assert [not row.any() for row in features] == [img == broken.name for img in found.test]
