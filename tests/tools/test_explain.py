"""Heat maps: at the place that decides, of every kind of network that we train."""

from pathlib import Path

import cv2
import keras
import numpy as np
import pytest

from common.competition import CLASSES
from common.errors import UserError
from models.finetuning import architecture as zoo
from models.finetuning.network.build import plain_copy
from tests.commands import here, refusal
from tests.models.test_networks import images, network_of
from tests.tools.conftest import TrainedRun
from tools.explain import CAPTION, GAP, TILE_WIDTH, HeatMaps, lit


def toy(pooling: str) -> keras.Model:
    """A network that looks for brightness: class 0 where it is bright, class 1 where it is not, 2 to 9 nowhere."""
    inputs = keras.Input((16, 24, 3), dtype="uint8")
    pixels = keras.layers.Rescaling(1 / 255)(inputs)
    maps = keras.layers.AveragePooling2D(2)(pixels)
    features = {"avg": keras.layers.GlobalAveragePooling2D, "flatten": keras.layers.Flatten}[pooling]()(maps)
    logits = keras.layers.Dense(10, name="logits")
    model = keras.Model(inputs, keras.layers.Softmax(name="probabilities")(logits(features)))
    kernel = np.zeros(logits.kernel.shape, np.float32)
    kernel[:, 0], kernel[:, 1] = 5.0, -5.0
    logits.set_weights([kernel, np.zeros(10, np.float32)])
    return model


@pytest.mark.parametrize("pooling", ["avg", "flatten"])
def test_the_heat_is_where_a_class_is_seen_and_nowhere_else(pooling: str) -> None:
    image = np.zeros((1, 16, 24, 3), np.uint8)
    image[:, 4:8, 12:20] = 255
    network = HeatMaps(toy(pooling))
    maps, probabilities = network.predict(image)
    assert probabilities.shape == (1, 10)
    heat = network.heat(maps, np.array([0]))[0]
    assert heat.shape == (8, 12)
    expected = np.zeros((8, 12), bool)
    expected[2:4, 6:10] = True
    np.testing.assert_array_equal(heat > 0, expected)
    assert network.heat(maps, np.array([1])).max() == 0, "what speaks against a class is not shown"


@pytest.mark.slow
def test_the_command_draws_a_row_for_each_photograph(trained: TrainedRun, tmp_path: Path) -> None:
    out = tmp_path / "sheet.jpg"
    folder = trained.data / "imgs" / "test"
    every = ["--classes", ",".join(CLASSES)]  # what the network is sure of by its bias alone has no heat
    done = here("tools.explain", *trained.choice, folder, "--most", "3", "--out", out, *every)
    assert "3 of 6 photographs" in done.stdout
    sheet = cv2.imread(str(out))
    tall, wide = 240 + CAPTION + GAP, TILE_WIDTH + GAP
    assert sheet.shape == (3 * tall, 11 * wide, 3)
    tiles = sheet[:, wide:].astype(int)
    assert np.abs(tiles[..., 0] - tiles[..., 2]).max() > 50, "a heat map has colours"


def test_a_crop_leaves_what_the_network_did_not_see_without_heat() -> None:
    shown = lit(np.full((100, 200, 3), 120, np.uint8), np.ones((3, 4), np.float32), "upper_body").astype(int)
    grey = shown[..., 0] == shown[..., 2]
    assert grey[:, :28].all() and not grey[4:85, 32:].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "sheet.txt"], "expected the name of a picture"),
        (["--most", "0"], "expected 1 to 1000"),
        (["--classes", "c1,c10"], "expected classes from c0 to c9"),
    ],
)
def test_bad_input_is_one_line(trained: TrainedRun, options: list[str], message: str) -> None:
    assert message in refusal(here("tools.explain", *trained.choice, *options, trained.data / "imgs" / "test"))


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.names())
def test_every_architecture_of_the_zoo_has_heat_maps(name: str, tmp_path: Path) -> None:
    trained, recipe = network_of(name)
    plain_copy(trained, zoo.find(name), recipe).save(tmp_path / "model.keras")
    network = HeatMaps(keras.saving.load_model(tmp_path / "model.keras"))
    maps, _ = network.predict(images(trained, 1))
    assert len(maps) == max(1, len(recipe.pooled_layers))
    heat = network.heat([np.repeat(array, 10, axis=0) for array in maps], np.arange(10))
    assert np.isfinite(heat).all()
    assert heat.max() > 0


def test_a_network_without_feature_maps_is_refused() -> None:
    inputs = keras.Input((4,))
    with pytest.raises(UserError, match="pools no feature map"):
        HeatMaps(keras.Model(inputs, keras.layers.Softmax(name="probabilities")(keras.layers.Dense(10)(inputs))))
