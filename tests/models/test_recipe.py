"""The recipe: what contradicts itself is refused, and the optimiser does with it what Keras's own does."""

import keras
import numpy as np
import pytest

from common.errors import UserError
from models.finetuning import architecture as zoo
from models.finetuning.architecture import Recipe
from models.finetuning.training.optimisation import Stage, make_optimizer


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_variable_moves_by_its_share_of_the_learning_rate(name: str, precision: str) -> None:
    if precision == "mixed_float16" and keras.backend.backend() == "jax":
        pytest.skip("Keras scales a loss on JAX only inside its own training step")
    recipe = Recipe(optimizer=name, weight_decay=0.3, clip_norm=0.0)
    start, gradient = np.arange(1.0, 4.0, dtype=np.float32), keras.ops.convert_to_tensor(np.float32([3, -2, 1]))
    scales = (1.0, 0.5, 0.125)
    variables = [keras.Variable(start, name=f"kernel_{i}") for i in range(3)]
    optimizer = make_optimizer(recipe, Stage("network", 1, 0.1), precision, scales)
    optimizer.build(variables)
    optimizer.learning_rate = 0.01
    optimizer.apply([optimizer.scale_loss(gradient)] * 3, variables)
    keras_own = {
        "sgd": keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
        "adam": keras.optimizers.Adam(0.01),
        "adamw": keras.optimizers.AdamW(0.01, weight_decay=0.3),
    }[name]
    expected = keras.Variable(start)
    keras_own.apply([gradient], [expected])
    assert np.abs(np.array(expected) - start).min() > 1e-3
    for scale, variable in zip(scales, variables, strict=True):
        np.testing.assert_allclose(np.array(variable) - start, scale * (np.array(expected) - start), atol=1e-6)


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        ({"trainable": "head", "layer_decay": 0.8}, "--layer-decay with --trainable head"),
        ({"trainable": "head", "unfreeze_epochs": 1}, "--unfreeze-epochs with --trainable head"),
        ({"unfreeze_epochs": 3, "epochs": 3}, r"only the topmost block would ever train.*--epochs 6"),
        ({"epochs": 0, "head_start": "random"}, "nothing would train"),
        ({"pseudo_ratio": 1.0}, "--pseudo-ratio with --pseudo-labels none: it would change nothing"),
        ({"hidden_units": 64}, "--head-start random"),
        ({"optimizer": "sgd", "weight_decay": 0.01}, "--weight-decay with --optimizer sgd: it would change nothing"),
        ({"momentum": 0.8}, "--momentum with --optimizer adamw"),
        ({"head_learning_rate": 0.01}, "add --head-epochs 2"),
        ({"head_start": "zero", "head_epochs": 1, "head_regularisation": 1.0}, "add --head-start logistic"),
    ],
)
def test_settings_that_contradict_each_other_are_told_in_one_line(chosen: dict, told: str) -> None:
    with pytest.raises(UserError, match=told):
        zoo.find("vgg16").settings_for(chosen)
    zoo.find("vgg16").settings_for({"head_epochs": 2, "head_start": "logistic"})
