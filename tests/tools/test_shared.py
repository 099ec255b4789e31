"""Networks that share their lower layers compute them once, and say the same as each by itself."""

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pytest

from common.settings import ImageSize
from models.finetuning import architecture as zoo
from models.finetuning.network.build import build, save_model
from models.finetuning.recipe import Recipe
from tools import shared


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    pooled = ("conv_pw_5_relu", "conv_pw_11_relu", "conv_pw_13_relu")
    return dataclasses.replace(zoo.find("mobilenet").recipe, image_size=ImageSize(32, 48), pooled_layers=pooled)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe) -> list[Path]:
    """Three networks as folds leave them: of one trunk, what is above conv_pw_11 and the head are each one's own."""
    folder = tmp_path_factory.mktemp("networks")
    network = build(zoo.find("mobilenet"), recipe, "none", "float32", seed=0)
    paths = []
    for number in range(3):
        generator = np.random.default_rng(number)
        layers = [network.backbone.get_layer(name) for name in ("conv_pw_12", "conv_pw_13_bn")]
        for variable in [v for layer in [*layers, network.head] for v in layer.trainable_variables]:
            variable.assign(generator.normal(0, 0.1, variable.shape))
        paths.append(folder / f"{number}.keras")
        save_model(network, lambda: build(zoo.find("mobilenet"), recipe, "none", "float32", seed=9), paths[-1])
    return paths


def loaded(paths: list[Path]) -> list[keras.Model]:
    return [keras.saving.load_model(path, compile=False) for path in paths]


def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, 32, 48, 3), dtype=np.uint8)


def test_the_trunk_ends_where_the_weights_differ_and_predictions_are_the_same(files: list[Path]) -> None:
    models = loaded(files)
    (group,) = shared.grouped(models, ["one"] * 3)
    assert (group.members, group.ends) == ((0, 1, 2), "conv_dw_12_relu")  # two of the layers below are pooled, too
    found = group.predict(images())
    for model, probabilities in zip(models, found, strict=True):
        np.testing.assert_allclose(probabilities, model.predict_on_batch(images()), atol=1e-6)
    assert np.abs(found[0] - found[1]).max() > 1e-2


def test_networks_that_differ_in_the_head_alone_share_the_backbone(files: list[Path]) -> None:
    models = loaded([files[0], files[0]])
    logits = models[1].get_layer("head").get_layer("logits")
    logits.kernel.assign(-logits.kernel)
    (group,) = shared.grouped(models, ["one"] * 2)
    found = group.predict(images())
    for model, probabilities in zip(models, found, strict=True):
        np.testing.assert_allclose(probabilities, model.predict_on_batch(images()), atol=1e-6)
    assert np.abs(found[0] - found[1]).max() > 1e-2


def test_networks_of_other_kinds_or_other_first_weights_share_nothing(files: list[Path]) -> None:
    models = loaded([files[0], files[1], files[2]])
    kernel = models[2].get_layer("backbone").get_layer("conv1").kernel
    kernel.assign(kernel * 1.5)
    groups = shared.grouped(models, ["one", "another", "one"])
    assert [(group.members, group.trunk) for group in groups] == [((0,), None), ((1,), None), ((2,), None)]
