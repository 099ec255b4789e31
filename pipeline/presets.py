"""What each --preset of ./run_all.sh trains."""

from dataclasses import dataclass

DEFAULT_MODELS = "vgg16 inception_v3 resnet50"
SECOND_ROUND = "_round2"  # after the architecture's name, in that of the model


@dataclass(frozen=True)
class Preset:
    """The models of a run.

    Attributes:
        models: the architectures, where the command line names none.
        run: the name of the run, where it names none.
        second_round: those of `models` that are trained again and then also learn from the first round's predictions
            for the test images (fold k from fold k alone); where the command line names models, all of these are.
    """

    models: str
    run: str
    second_round: str = ""


PRESETS = {
    "quick": Preset(DEFAULT_MODELS, "quick"),  # in miniature
    "default": Preset(DEFAULT_MODELS, "full"),
    "strong": Preset("inception_v3 mobilenet_v2", "strong", "inception_v3"),
}
