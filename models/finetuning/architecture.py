"""What a network of the zoo declares about itself, and every setting of fine-tuning.

A setting is resolved in this order, and the later one wins: the default of `Recipe` or `Augmentation`, the
architecture's own, random weights (`SCRATCH`), a miniature run (`QUICK`, `QUICK_SCRATCH`, `DEMO`), the command line.
"""

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.settings import ImageSize, as_options, nearest, setting, word
from preprocessing.settings import REGIONS, WHOLE, Augmentation

ZOO = Path(__file__).resolve().parent.parent
NOT_ARCHITECTURES = ("__init__", "bottleneck")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What is trained, how, on which pixels."""

    # input
    image_size: ImageSize = setting(ImageSize(224, 224), "size of the images; 240x320 keeps their shape")  # noqa: RUF009
    crop: str = setting(WHOLE, "part of the photographs that is used", choices=tuple(REGIONS))
    train_images: int = setting(0, "use so many training images a fold, evenly spaced in each video; 0 is all", least=0)
    augmented_copies: int = setting(
        0, "augmented versions of each image, which the epochs take in turn; 0 is a new one in each epoch", least=0
    )
    # network
    pooled_layers: tuple[str, ...] = setting(
        (), "layers whose pooled outputs the head sees; the network ends at the deepest; none is the last layer"
    )
    pooling: str = setting(
        "avg", "how a feature map becomes features; flatten is large", choices=("avg", "max", "avgmax", "flatten")
    )
    hidden_units: int = setting(0, "size of a hidden ReLU layer in the head; 0 is no such layer", unit="units", least=0)
    dropout: float = setting(0.5, "dropout before the last layer", least=0, most=0.95)
    head_l2: float = setting(0.0, "L2 penalty on the head's kernels, times their squares", least=0, most=10)
    auxiliary: bool = setting(True, "train with the auxiliary heads that the network has (googlenet has two)")
    # what trains
    trainable: str = setting("all", "what trains: all, head, 'last N' layers, or 'from NAME' of a layer or block on")
    batch_norm: str = setting(
        "inference", "BatchNorm layers stay as pretrained or train along", choices=("inference", "training")
    )
    unfreeze_epochs: int = setting(
        0, "one more block from the top joins after so many epochs each; 0 is all at once", unit="epochs", least=0
    )
    # first the head
    head_start: str = setting(
        "logistic",
        "start of the head: logistic regression on the frozen network's features, random, or zero (all classes alike)",
        choices=("logistic", "random", "zero"),
    )
    head_regularisation: float = setting(0.01, "C of that logistic regression, smaller is stronger", least=1e-9)
    head_epochs: int = setting(0, "epochs that the head trains by itself before the rest joins", unit="epochs", least=0)
    head_learning_rate: float = setting(1e-3, "peak learning rate of those epochs", least=0, most=10)
    # then everything that trains
    epochs: int = setting(4, "epochs of fine-tuning after the head's own", unit="epochs", least=0)
    batch_size: int = setting(32, "images in a step", unit="images", least=1)
    optimizer: str = setting("adamw", "optimiser; sgd has Nesterov momentum", choices=("adamw", "adam", "sgd"))
    learning_rate: float = setting(3e-5, "peak learning rate", least=0, most=10)
    layer_decay: float = setting(1.0, "factor of the learning rate from a block to the one below", least=0.01, most=1)
    schedule: str = setting("cosine", "learning rate after the warm-up", choices=("cosine", "constant", "step"))
    warmup: float = setting(0.1, "warm-up: share of the steps in which the learning rate rises from 0", least=0, most=1)
    momentum: float = setting(0.9, "momentum of SGD", least=0, most=0.999)
    weight_decay: float = setting(1e-4, "weight decay of AdamW", least=0, most=1)
    clip_norm: float = setting(1.0, "largest global norm of the gradient; 0 is no clipping", least=0)
    label_smoothing: float = setting(0.05, "share of the target spread over all classes", least=0, most=0.9)
    ema: float = setting(0.0, "EMA momentum, of weights that are kept instead; 0 is off", least=0, most=0.99999)
    judge_every: int = setting(1, "epochs between evaluations on the held-out drivers", unit="epochs", least=1)
    patience: int = setting(3, "stop after so many epochs without a lower held-out log loss", unit="epochs", least=1)
    # test images as teachers
    pseudo_labels: str = setting(
        "", "RUN or RUN/MODEL[,MODEL] whose test predictions are soft targets; a fold reads the same fold alone"
    )
    pseudo_prior: bool = setting(
        True, "move these predictions, driver by driver, towards training's mix (drivers are recognised by the images)"
    )
    pseudo_clusters: bool = setting(
        False, "with that, also towards clusters of each driver's images by their outlines; strong's default"
    )
    pseudo_ratio: float = setting(2.0, "with them, training images for each test image", least=0.1, most=100)
    # predictions
    tta: int = setting(0, "test-time augmentation: copies to average over", unit="views", least=0, most=64)

    def copy_of(self, epoch: int) -> int:
        """Number of the augmented copy of the images that an epoch sees, both from 1."""
        return (epoch - 1) % self.augmented_copies + 1 if self.augmented_copies else epoch


@dataclasses.dataclass(frozen=True)
class Bottleneck:
    """Which features of the frozen network, and which classifier on them."""

    classifier: str = setting(
        "logistic", "multinomial logistic regression, or linear support vector machines", choices=("logistic", "svm")
    )
    regularisation: float = setting(0.0, "C, smaller is stronger; 0 is chosen by held-out drivers", least=0)
    calibrate: bool = setting(True, "calibrate its scores on held-out drivers of the training part; an svm needs it")
    image_size: ImageSize = setting(ImageSize(224, 224), "size that images are brought to")  # noqa: RUF009
    crop: str = setting(WHOLE, "part of the photographs that is used", choices=tuple(REGIONS))
    pooled_layers: tuple[str, ...] = setting((), "layers whose pooled outputs are the features; none is the last layer")
    pooling: str = setting("avg", "how a feature map becomes features", choices=("avg", "max", "avgmax"))

    def network_recipe(self) -> Recipe:
        """The recipe of the network that gives these features and whose head holds the classifier."""
        return _replaced(Recipe(dropout=0.0, trainable="head", epochs=0), vars(self))


SCRATCH: Mapping[str, Any] = {
    "trainable": "all",
    "batch_norm": "training",
    "head_start": "random",
    "dropout": 0.2,
    "epochs": 30,
    "batch_size": 16,
    "learning_rate": 1e-3,
    "weight_decay": 1e-3,
    "patience": 8,
    "augmentation": 0.5,
    "erasing": 0.0,
}
"""What random weights change: there is nothing to protect, BatchNorm has statistics to learn, steps are what counts."""

QUICK: Mapping[str, Any] = {"image_size": ImageSize(96, 128), "train_images": 800, "tta": 0}
"""What --quick changes: a faithful miniature that ends within minutes on two cores. As many epochs: they are short."""

QUICK_SCRATCH: Mapping[str, Any] = {"epochs": 7, "judge_every": 2}
"""What --quick with random weights changes besides: four epochs would teach such a network nothing."""

DEMO: Mapping[str, Any] = {"epochs": 2}
"""What the demo set changes besides with pretrained weights: drawings are easy for a network that knows ImageNet."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """A network of the zoo."""

    name: str  # of its script and of its weights file, `NAME.weights.h5`
    builder: str  # 'module:function' that builds it, called as those of keras.applications are
    parameters: int  # of the network without its top, exactly: shows at once whether a weights file is its own
    published_weights: str = ""  # Keras's own ImageNet weights without the top, as Keras caches them; '' for none
    include_top: bool = False  # whether these are of the network with its top
    importer: str = ""  # module that makes its weights file from weights that others publish
    # The range of pixels that it was trained on: 'tf' is [-1, 1] RGB, 'caffe' is BGR minus ImageNet's mean, 'torch' is
    # RGB standardised, 'included' where the network itself does it.
    preprocessing: str
    gigaflops: float  # floating-point operations of one forward pass at 224x224, in 1e9 (two for a multiply-add)
    slowdown: float = 1.0  # times longer a step takes than these say: depthwise convolutions wait for memory
    least_size: int = 32  # the smallest height and width that it accepts, in pixels
    # Of the loss of each auxiliary output in training, for a builder that adds them when called with `auxiliary=True`.
    auxiliary_weight: float = 0.0
    recipe: Recipe = dataclasses.field(default_factory=Recipe)  # its default settings, with pretrained weights
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    # What it changes of the tables of these names: random weights, miniature runs, both.
    scratch: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    quick: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    quick_scratch: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    # The same on the demo set with random weights, which should take minutes; and of a `Bottleneck` on its features.
    demo_scratch: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    bottleneck: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def weight_bytes(self) -> int:
        return 4 * self.parameters

    def build(self, **options: Any) -> Any:
        """Calls its builder, as those of keras.applications are; if that may download, inside `weights.downloading`."""
        module, _, function = self.builder.partition(":")
        return getattr(importlib.import_module(module), function)(**options)

    def settings_for(
        self, chosen: Mapping[str, Any], scratch: bool = False, quick: bool = False, demo: bool = False
    ) -> tuple[Recipe, Augmentation]:
        """Recipe and augmentation, with what the user chose, for random weights (`scratch`), in miniature, on the demo.

        A UserError where settings contradict each other.
        """
        values: dict[str, Any] = {}
        if scratch:
            values |= {**SCRATCH, **self.scratch}
        if quick:
            values |= {**QUICK, **self.quick}
        if demo and not scratch:
            values |= DEMO
        if scratch and quick:
            values |= {**QUICK_SCRATCH, **self.quick_scratch, **(self.demo_scratch if demo else {})}
        values |= chosen
        recipe, augmentation = _replaced(self.recipe, values), _replaced(self.augmentation, values)
        self._check_image_size(recipe.image_size)
        _check_contradictions(recipe, chosen)
        return recipe, augmentation

    def bottleneck_settings(self, quick: bool, given: Mapping[str, Any]) -> Bottleneck:
        """The settings of a classifier on its features, as `settings_for`."""
        size = {"image_size": self.quick.get("image_size", QUICK["image_size"])} if quick else {}
        settings = dataclasses.replace(Bottleneck(), **{**self.bottleneck, **size, **given})
        self._check_image_size(settings.image_size)
        if settings.classifier == "svm" and not settings.calibrate:
            raise UserError(
                "--no-calibrate with --classifier svm: its scores are no probabilities. Leave --no-calibrate out, or "
                "take --classifier logistic."
            )
        return settings

    def _check_image_size(self, size: ImageSize) -> None:
        if min(size.height, size.width) < self.least_size:
            raise UserError(f"--image-size {size}: {self.name} needs at least {self.least_size}x{self.least_size}.")


ONLY_WITH: Mapping[str, tuple[str, Callable[[Any], bool], str]] = {
    "weight_decay": ("optimizer", lambda name: name == "adamw", "--optimizer adamw"),
    "momentum": ("optimizer", lambda name: name == "sgd", "--optimizer sgd"),
    "head_learning_rate": ("head_epochs", bool, "--head-epochs 2"),
    "head_regularisation": ("head_start", lambda start: start == "logistic", "--head-start logistic"),
    "layer_decay": ("trainable", lambda what: what != "head", "another --trainable"),
    "unfreeze_epochs": ("trainable", lambda what: what != "head", "another --trainable"),
    "pseudo_ratio": ("pseudo_labels", bool, "--pseudo-labels RUN"),
    "pseudo_clusters": ("pseudo_labels", bool, "--pseudo-labels RUN"),
}
"""Settings that do something only where another one is so, and what makes it so."""


class NoEffectError(UserError):
    """A chosen setting would change nothing, as another setting is."""


def _check_contradictions(recipe: Recipe, chosen: Mapping[str, Any]) -> None:
    """Refuses settings that contradict each other, and `chosen` ones that would have no effect."""
    for name, (other, effective, remedy) in ONLY_WITH.items():
        asked_for = name in chosen and getattr(recipe, name) not in (0, getattr(Recipe(), name))
        if asked_for and not effective(getattr(recipe, other)):
            present = f"with --{other.replace('_', '-')} {word(getattr(recipe, other))}"
            option = as_options({name: getattr(recipe, name)})[0]
            raise NoEffectError(f"{option} {present}: it would change nothing. Leave {option} out, or add {remedy}.")
    if recipe.hidden_units and recipe.head_start == "logistic":
        raise UserError(
            f"--hidden-units {recipe.hidden_units} with --head-start logistic: a logistic regression has no hidden "
            "layer. Add --head-start random --head-epochs 2."
        )
    if recipe.unfreeze_epochs and recipe.unfreeze_epochs >= recipe.epochs:
        raise UserError(
            f"--unfreeze-epochs {recipe.unfreeze_epochs} with --epochs {recipe.epochs}: only the topmost block would "
            f"ever train. Take more epochs (--epochs {2 * recipe.unfreeze_epochs} or above), or a smaller "
            "--unfreeze-epochs."
        )
    if recipe.head_start != "logistic" and not recipe.epochs and not recipe.head_epochs:
        raise UserError(
            f"--epochs 0 with --head-start {recipe.head_start}: nothing would train. Add --head-epochs 2, or "
            "--head-start logistic."
        )


def _replaced(configuration: Any, values: Mapping[str, Any]) -> Any:
    names = {field.name for field in dataclasses.fields(configuration)}
    return dataclasses.replace(configuration, **{name: value for name, value in values.items() if name in names})


def names() -> list[str]:
    """The architectures of the zoo: the scripts in models/."""
    return sorted(path.stem for path in ZOO.glob("*.py") if path.stem not in NOT_ARCHITECTURES)


def find(name: str) -> Architecture:
    """The architecture declared in models/NAME.py; a UserError names the nearest where there is none."""
    if name not in names():
        raise UserError(
            f"unknown architecture {name!r}{nearest(name, names()) or '.'} There are: {', '.join(names())}."
        )
    return importlib.import_module(f"models.{name}").ARCHITECTURE


def find_all(wanted: Sequence[str]) -> list[Architecture]:
    """The architectures of `--models`, each once, in this order; a UserError where there is no such, or none named."""
    if not wanted:
        raise UserError(f"--models is empty. There are: {', '.join(names())}.")
    return [find(name) for name in dict.fromkeys(wanted)]
