"""What each --preset of ./run_all.sh trains: one or more models of each architecture, in one or two rounds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DEFAULT_MODELS = "vgg16 inception_v3 resnet50"


@dataclass(frozen=True)
class Member:
    """One model of each architecture of a run.

    Attributes:
        suffix: of its name in the run, after the architecture's.
        settings: what it changes of the architecture's recipe. An option on the command line wins.
        second_round: it also learns from the first round's predictions for the test images (fold k from fold k alone).
    """

    suffix: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    second_round: bool = False


@dataclass(frozen=True)
class Preset:
    """The models of a run.

    Attributes:
        models: the architectures, where the command line names none.
        run: the name of the run, where it names none.
        members: the models of each of them.
    """

    models: str
    run: str
    members: tuple[Member, ...] = (Member(),)


PRESETS = {
    "quick": Preset(DEFAULT_MODELS, "quick"),  # in miniature
    "default": Preset(DEFAULT_MODELS, "full"),
    "strong": Preset("inception_v3 mobilenet_v2", "strong", (Member(), Member("_round2", second_round=True))),
}
