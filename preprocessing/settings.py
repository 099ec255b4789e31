"""What a network sees of the photographs: the settings of the augmentation, and the regions that can be cut out.

Apart from their code, so that `--help` need not load OpenCV.
"""

import dataclasses
from typing import TYPE_CHECKING

from common.settings import setting

if TYPE_CHECKING:
    import numpy as np


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How far training images are changed at random. There is no flip: left and right are different classes."""

    augmentation: float = setting(
        1.0, "strength: multiplies every range below; 0 turns augmentation off", least=0, most=10
    )
    rotation: float = setting(12.0, "largest rotation to either side", unit="degrees", least=0, most=180)
    translation: float = setting(0.10, "largest shift, as a share of width and height", least=0, most=1)
    zoom: float = setting(0.20, "largest zoom, 0.2 is 1/1.2 to 1.2 times", least=0, most=5)
    shear: float = setting(0.0, "largest horizontal shear", unit="degrees", least=0, most=60)
    brightness: float = setting(0.20, "largest shift of all levels, as a share of the range", least=0, most=1)
    contrast: float = setting(0.40, "largest gain about the mean level, 0.4 is 1/1.4 to 1.4 times", least=0, most=5)
    colour: float = setting(0.10, "largest gain of each colour channel by itself", least=0, most=5)
    blur: float = setting(0.0, "largest standard deviation of Gaussian blur", unit="pixels", least=0, most=50)
    noise: float = setting(0.0, "largest standard deviation of Gaussian noise", unit="levels", least=0, most=255)
    jpeg: float = setting(100.0, "lowest quality of JPEG compression, drawn up to 100; 100 is off", least=1, most=100)
    erasing: float = setting(0.5, "probability of erasing one rectangle", least=0, most=1)
    cutmix: float = setting(0.0, "probability of a rectangle from another image of the batch", least=0, most=1)
    mixup: float = setting(
        0.0, "alpha of the blend with another image of the batch (0.2 is usual); 0 is off", least=0, most=10
    )

    @classmethod
    def neutral(cls) -> "Augmentation":
        """Settings of which each changes nothing."""
        return cls(**dict.fromkeys((field.name for field in dataclasses.fields(cls)), 0.0) | {"jpeg": 100.0})

    def scaled(self) -> "Augmentation":
        """These settings multiplied by the strength, none beyond its own largest value; their strength is 1."""
        changes = {}
        for field in dataclasses.fields(self):
            if field.name == "jpeg":  # counted from its neutral value
                changes["jpeg"] = max(field.metadata["least"], 100 - (100 - self.jpeg) * self.augmentation)
            elif field.name != "augmentation":
                changes[field.name] = min(field.metadata["most"], getattr(self, field.name) * self.augmentation)
        return dataclasses.replace(self, **changes, augmentation=1.0)


@dataclasses.dataclass(frozen=True)
class Region:
    """A part of a photograph of the photograph's own shape (so nothing is stretched), in shares of its sides."""

    left: float  # where it begins
    top: float
    side: float  # its width as a share of the width, and its height as a share of the height

    def of(self, image: "np.ndarray") -> "np.ndarray":
        """The region of an image of shape (height, width, ...), a view."""
        height, width = image.shape[:2]
        tall, wide = max(1, round(self.side * height)), max(1, round(self.side * width))
        top, left = min(round(self.top * height), height - tall), min(round(self.left * width), width - wide)
        return image[top : top + tall, left : left + wide]


WHOLE = "whole"
REGIONS = {
    WHOLE: Region(0.0, 0.0, 1.0),
    # The camera hangs where the passenger sits: the left 15 % are the back seats and who sits there, the lowest 12 %
    # seat cushions and cup holders. Heads lie right of 0.15 (left of it only when reaching behind), some at the upper
    # border; the wheel touches the right border, and the hand at the radio comes down to 0.87. Where the mean images
    # of a driver's ten behaviours differ, 82 % of the difference lies in here, on 72 % of the area.
    "upper_body": Region(left=0.15, top=0.03, side=0.85),
    # The lower right: wheel, gear lever, radio, lap, and what the hands hold there, without heads and the road behind
    # the windows; a telephone at the far ear is outside. 55 % of that difference, on 42 % of the area. For a second
    # network beside one that sees everything, as the competition's 1st and 10th place had one.
    "hands": Region(left=0.35, top=0.22, side=0.65),
}
