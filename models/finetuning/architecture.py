"""What an architecture declares about itself. The facts that a network needs live with the network."""

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.settings import ImageSize, nearest
from models.finetuning.network.weights import PublishedNetwork
from models.finetuning.recipe import QUICK, Bottleneck, Kind, Recipe, check_contradictions, resolve
from preprocessing.settings import Augmentation

ZOO = Path(__file__).resolve().parent.parent
NOT_ARCHITECTURES = ("__init__", "bottleneck")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture(PublishedNetwork):
    """A network of the zoo.

    Attributes, besides those of `PublishedNetwork`:
        preprocessing: the range of pixels that it was trained on: 'tf' is [-1, 1] RGB, 'caffe' is BGR minus
            ImageNet's mean, 'torch' is RGB standardised, 'included' where the network itself does it.
        gigaflops: floating-point operations of one forward pass at 224x224, in 1e9 (two for a multiply-add).
        slowdown: how many times longer a training step takes than these operations say: depthwise convolutions wait
            for memory.
        least_size: the smallest height and width that it accepts, in pixels.
        auxiliary_weight: of the loss of each auxiliary output in training, for a builder that adds them when called
            with `auxiliary=True`; 0 is a network without.
        recipe: its default settings, with pretrained weights.
        augmentation: its default augmentation.
        scratch, quick, quick_scratch: what it changes of the tables of these names in `recipe` (random weights,
            miniature runs, both).
        demo_scratch: what it changes besides on the demo set with random weights, which should take minutes.
        bottleneck: what it changes of the settings of a classifier on its features, a `Bottleneck`.
    """

    preprocessing: str
    gigaflops: float
    slowdown: float = 1.0
    least_size: int = 32
    auxiliary_weight: float = 0.0
    recipe: Recipe = dataclasses.field(default_factory=Recipe)
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    scratch: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    quick: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    quick_scratch: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    demo_scratch: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    bottleneck: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def weight_bytes(self) -> int:
        """Size of its weights in float32."""
        return 4 * self.parameters

    def build(self, **options: Any) -> Any:
        """Calls its builder, as those of keras.applications are called: `weights=`, `include_top=`, `input_shape=`.

        Weights that Keras would download are asked for inside `weights.downloading`.
        """
        module, _, function = self.builder.partition(":")
        return getattr(importlib.import_module(module), function)(**options)

    def check_image_size(self, size: ImageSize) -> None:
        """Raises a UserError if the images are smaller than the network accepts."""
        if min(size.height, size.width) < self.least_size:
            raise UserError(f"--image-size {size}: {self.name} needs at least {self.least_size}x{self.least_size}.")

    def settings_for(self, kind: Kind, chosen: Mapping[str, Any]) -> tuple[Recipe, Augmentation]:
        """Recipe and augmentation for a kind of run, with what the user chose.

        Raises:
            UserError: the images are smaller than the network accepts, or settings contradict each other.
        """
        recipe, augmentation = self.resolved(kind, chosen)
        self.check_image_size(recipe.image_size)
        check_contradictions(recipe, chosen)
        return recipe, augmentation

    def resolved(self, kind: Kind, chosen: Mapping[str, Any]) -> tuple[Recipe, Augmentation]:
        """As `settings_for`, unchecked."""
        own = {name: getattr(self, name) for name in ("scratch", "quick", "quick_scratch", "demo_scratch")}
        return resolve(self.recipe, self.augmentation, kind, own, chosen)


def bottleneck_settings(architecture: Architecture, quick: bool, given: Mapping[str, Any]) -> Bottleneck:
    """The settings of a classifier on an architecture's features.

    Its own, then those of a miniature run, then what the user chose; the later wins.

    Raises:
        UserError: the images are smaller than the network accepts, or settings contradict each other.
    """
    values: dict[str, Any] = dict(architecture.bottleneck)
    if quick:
        values["image_size"] = architecture.quick.get("image_size", QUICK["image_size"])
    settings = dataclasses.replace(Bottleneck(), **{**values, **given})
    architecture.check_image_size(settings.image_size)
    if settings.classifier == "svm" and not settings.calibrate:
        raise UserError(
            "--no-calibrate with --classifier svm: its scores are no probabilities. Leave --no-calibrate out, or take "
            "--classifier logistic."
        )
    return settings


def names() -> list[str]:
    """The architectures of the zoo: the scripts in models/."""
    return sorted(path.stem for path in ZOO.glob("*.py") if path.stem not in NOT_ARCHITECTURES)


def find(name: str) -> Architecture:
    """The architecture declared in models/NAME.py.

    Raises:
        UserError: there is none; names the nearest.
    """
    if name not in names():
        raise UserError(
            f"unknown architecture {name!r}{nearest(name, names()) or '.'} There are: {', '.join(names())}."
        )
    return importlib.import_module(f"models.{name}").ARCHITECTURE


def find_all(wanted: Sequence[str]) -> list[Architecture]:
    """The architectures of `--models`, each once, in this order.

    Raises:
        UserError: none was named, or there is no such architecture.
    """
    if not wanted:
        raise UserError(f"--models is empty. There are: {', '.join(names())}.")
    return [find(name) for name in dict.fromkeys(wanted)]
