"""The settings of the augmentation, apart from its code so that `--help` need not load OpenCV."""

import dataclasses

from common.settings import setting


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
    driver_mixing: float = setting(
        0.0, "probability of a half from another driver who does the same (training drivers only)", least=0, most=1
    )

    def scaled(self) -> "Augmentation":
        """These settings multiplied by the strength, none beyond its own largest value; their strength is 1."""
        changes = {}
        for field in dataclasses.fields(self):
            if field.name == "jpeg":  # counted from its neutral value
                changes["jpeg"] = max(field.metadata["least"], 100 - (100 - self.jpeg) * self.augmentation)
            elif field.name != "augmentation":
                changes[field.name] = min(field.metadata["most"], getattr(self, field.name) * self.augmentation)
        return dataclasses.replace(self, **changes, augmentation=1.0)
