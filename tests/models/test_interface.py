"""From Python: four lines from data to predictions; and what a dry run prints."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image
import pytest

from common.competition import CLASSES
from common.errors import UserError
from common.run_folder import REPOSITORY
from common.settings import ImageSize
from models import finetune
from models.finetuning.interface import Model
from preprocessing.images import read_image
from tests.commands import run_python, succeeded

SETTINGS = {"weights": "none", "image_size": "32x40", "epochs": 1, "folds": 2, "precision": "float32", "workers": 2}


@pytest.fixture(scope="module")
def fitted(data: Path) -> Model:
    model = finetune("mobilenet", data=data, cache=data.parent / "cache", **SETTINGS)
    return model.fit(fold=1)


def test_four_lines_from_data_to_predictions(fitted: Model, data: Path) -> None:
    paths = sorted((data / "imgs" / "test").iterdir())
    table = fitted.predict(paths)
    assert list(table.columns) == ["img", *CLASSES]
    assert list(table["img"]) == [path.name for path in paths]
    np.testing.assert_allclose(table[list(CLASSES)].sum(axis=1), 1, atol=1e-9)
    assert isinstance(fitted.history, pd.DataFrame)
    assert len(fitted.history) == 1
    assert np.isfinite(fitted.log_loss)

    arrays = np.stack([read_image(path, ImageSize(32, 40)) for path in paths])
    np.testing.assert_allclose(fitted.predict(arrays)[list(CLASSES)], table[list(CLASSES)], atol=1e-6)
    assert list(fitted.predict([])) == ["img", *CLASSES]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"learning_rat": 1e-3}, "unknown setting 'learning_rat'. Did you mean learning_rate?"),
        ({"rotaton": 5}, "unknown setting 'rotaton'. Did you mean rotation?"),
        ({"weight": "none"}, "unknown setting 'weight'. Did you mean weights?"),
        ({"epochs": "many"}, "epochs='many': expected a whole number"),
        ({"pooling": "mean"}, "pooling='mean': expected one of avg, max, avgmax, flatten"),
        ({"image_size": (16, 400)}, "mobilenet needs at least 32x32"),
        ({"precision": "float64"}, "precision='float64': expected one of"),
        ({"data": "/nowhere"}, "/nowhere: does not exist"),
        ({"weights": "/nowhere"}, "no such folder"),
    ],
)
def test_a_wrong_setting_is_told_before_any_work(settings: dict, told: str) -> None:
    with pytest.raises(UserError, match="(?s)" + told.replace("(", r"\(").replace("?", r"\?")):
        finetune("mobilenet", **{"weights": "none", **settings})


def test_wrong_calls_are_told_in_one_line(fitted: Model) -> None:
    with pytest.raises(UserError, match="Did you mean mobilenet"):
        finetune("mobilnet")
    with pytest.raises(UserError, match=r"fit\(\) first"):
        finetune("mobilenet", **SETTINGS).predict([])
    with pytest.raises(UserError, match="the folds 0 to 1"):
        fitted.fit(fold=2)


@pytest.fixture(scope="module")
def sensitive(data: Path) -> Model:
    """A model whose predictions depend on where in the image which colour is."""
    settings = SETTINGS | {"pooled_layers": "conv_pw_1_relu", "pooling": "flatten", "trainable": "head", "epochs": 0}
    return finetune("mobilenet", data=data, cache=data.parent / "cache", **settings, head_start="logistic").fit(fold=1)


def test_a_photograph_is_the_same_as_a_file_an_image_or_an_array_and_is_turned_upright(
    sensitive: Model, data: Path, tmp_path: Path
) -> None:
    def probabilities(given: Any) -> np.ndarray:
        return sensitive.predict(given)[list(CLASSES)].to_numpy()

    photograph = np.asarray(PIL.Image.open(sorted((data / "imgs" / "test").iterdir())[0]).convert("RGB"))
    array = photograph // np.array([1, 2, 8], np.uint8)  # reddish
    upright, expected = PIL.Image.fromarray(array), probabilities(array)
    for wrong in (array[..., ::-1], np.rot90(array)):
        assert np.abs(probabilities(np.ascontiguousarray(wrong)) - expected).max() > 0.1
    np.testing.assert_allclose(probabilities(upright), expected, atol=1e-6)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    lying = upright.transpose(PIL.Image.Transpose.ROTATE_90)  # orientation 6 says: turn it back
    lying.save(tmp_path / "turned.png", exif=exif)
    for given in (str(tmp_path / "turned.png"), [PIL.Image.open(tmp_path / "turned.png")]):
        np.testing.assert_allclose(probabilities(given), expected, atol=1e-6)
    table = sensitive.predict([tmp_path / "turned.png", upright, upright.convert("RGBA")])
    assert list(table["img"]) == ["turned.png", "1", "2"]
    np.testing.assert_allclose(table[list(CLASSES)], np.repeat(expected, 3, axis=0), atol=1e-6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((1, 32, 40, 3), np.float32), r"image 0: .*RGB.*found shape \(32, 40, 3\), float32"),
        ([np.zeros((32, 40, 4), np.uint8)], r"found shape \(32, 40, 4\), uint8\. For grey and RGBA"),
        ([1, 2], "image 0: expected a path, a PIL image or .*, found int"),
        (None, "found NoneType"),
        ([REPOSITORY / "pyproject.toml"], r"pyproject\.toml cannot be read as a picture"),
        ([PIL.Image.fromarray(np.full((8, 8), 300, np.float32))], r"mode F\). Save it with 8 bits"),
        ([REPOSITORY / "nowhere.jpg"], "no such image"),
    ],
)
def test_what_is_no_image_is_one_clear_line(fitted: Model, given: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        fitted.predict(given)


@pytest.mark.parametrize("name", ["bottleneck", "mobilenet"])
def test_a_script_imports_from_the_repository_and_not_from_its_own_folder(name: str, tmp_path: Path) -> None:
    script = f"""
import importlib.util, runpy, sys
sys.path[0], sys.argv = {str(REPOSITORY / "models")!r}, ["models/{name}.py", "--help"]
try:
    runpy.run_path({str(REPOSITORY / "models" / f"{name}.py")!r}, run_name="__main__")
except SystemExit:
    found = importlib.util.find_spec("bottleneck")  # which pandas imports where it is installed
    print(found is None or {str(REPOSITORY)!r} not in str(found.origin))
"""
    done = run_python("-c", script, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "True", done.stderr


def test_a_dry_run_says_what_would_train_for_how_long_and_writes_nothing(data: Path, tmp_path: Path) -> None:
    places = ["--data", data, "--runs", tmp_path / "runs", "--cache", tmp_path / "cache"]
    options = ["--folds", "2", "--image-size", "32x40", "--batch-size", "16", "--epochs", "2", "--fold", "1"]
    told = succeeded(run_python("models/vgg16.py", "--dry-run", *places, *options, "--trainable", "from block5"))
    for words in (
        "settings: image size 32x40, trainable from block5, epochs 2, batch size 16 beside the defaults of",
        "optimizer adamw, learning rate 0.0002,",
        "fold 1: 40 training images in 3 steps of 16, 40 of held-out drivers, 6 test images",
        "at most 2 epochs, 6 steps, rate up to 0.0002: 4 of 14 layers train, from block5_conv1 to logits: 7,092,234 of",
        "memory   about",
        "time     about",
    ):
        assert words in told.stdout, told.stdout
    features = run_python("models/bottleneck.py", "--dry-run", *places, "--folds", "2", "--weights", "none")
    assert "nothing was started" in features.stdout, features.stderr
    assert not (tmp_path / "runs").exists()
