"""The untouched network names ImageNet's classes of an image; with random weights, which the test saves itself."""

import subprocess
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest

from common.errors import UserError
from common.settings import ImageSize
from models.finetuning import architecture as zoo
from preprocessing.images import read_image
from tests.commands import refusal, run_python, succeeded
from tests.trees import write_image
from tools import classify


def type_command(*words: object, home: Path) -> subprocess.CompletedProcess:
    refused = "http://127.0.0.1:9"  # a proxy that refuses at once
    return run_python("-m", "tools.classify", *words, KERAS_HOME=str(home), HTTPS_PROXY=refused, https_proxy=refused)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With an image, and random weights of mobilenet with its top."""
    path = tmp_path_factory.mktemp("classify")
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    write_image(path / "some.jpg", cv2.resize(pixels, (320, 240)))
    keras.utils.set_random_seed(5)
    network = keras.applications.MobileNet(weights=None)
    network.save_weights(path / "mobilenet_top.weights.h5")
    return path


@pytest.mark.slow
def test_the_five_likeliest_classes_are_those_of_keras_s_own_preprocessing(folder: Path, tmp_path: Path) -> None:
    reference = keras.applications.MobileNet(weights=None)
    reference.load_weights(folder / "mobilenet_top.weights.h5")
    pixels = read_image(folder / "some.jpg", ImageSize(224, 224)).astype(np.float32)
    expected = reference.predict_on_batch(keras.applications.mobilenet.preprocess_input(pixels)[None])[0]
    words = (folder / "some.jpg", "--architecture", "mobilenet", "--weights", folder)
    told = succeeded(type_command(*words, home=tmp_path))
    assert "numbers instead" in told.stdout, "their names cannot be downloaded here"
    classes = [line.split("class ")[1] for line in told.stdout.splitlines() if "  class " in line]
    assert classes == [str(number) for number in expected.argsort()[::-1][:5]]


def test_weights_of_a_network_without_its_top_are_refused(tmp_path: Path) -> None:
    source = keras.applications.MobileNet(weights=None, include_top=False, input_shape=(224, 224, 3))
    source.save_weights(tmp_path / "mobilenet_top.weights.h5")
    with pytest.raises(UserError, match="not the weights of mobilenet_top: its arrays have other shapes"):
        classify.whole_network(zoo.find("mobilenet"), str(tmp_path))


def test_keras_s_own_file_with_the_top_is_taken_under_its_own_name(tmp_path: Path) -> None:
    source = keras.applications.MobileNet(weights=None)
    source.save(tmp_path / "mobilenet_1_0_224_tf.h5")  # in the older layout, as published
    loaded = classify.whole_network(zoo.find("mobilenet"), str(tmp_path))
    for ours, theirs in zip(loaded.weights, source.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


WRONG = {
    "misspelt architecture": (("some.jpg", "--architecture", "mobilnet"), "Did you mean mobilenet?"),
    "no such image": (("nowhere.jpg", "--architecture", "mobilenet", "--weights", "FOLDER"), "nowhere.jpg: no such"),
    "folder without the file": (("x.jpg", "--architecture", "vgg16", "--weights", "FOLDER"), "vgg16_top.weights.h5 in"),
    "no such folder": (("x.jpg", "--architecture", "vgg16", "--weights", "/nowhere"), "no such folder"),
    "no published weights": (("x.jpg", "--architecture", "googlenet"), "Keras publishes no weights of googlenet"),
    "no internet": (("FOLDER/some.jpg", "--architecture", "mobilenet"), "their server cannot be reached"),
}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] * (case == "no internet")) for case in sorted(WRONG)]
)
def test_a_wrong_command_line_is_one_clear_message(case: str, folder: Path, tmp_path: Path) -> None:
    words, message = WRONG[case]
    assert message in refusal(type_command(*(word.replace("FOLDER", str(folder)) for word in words), home=tmp_path))
