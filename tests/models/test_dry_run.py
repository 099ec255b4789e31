"""`--dry-run`: what would train, and nothing written."""

import subprocess
from collections.abc import Callable
from pathlib import Path

from common.settings import ImageSize, as_words
from models.finetuning import architecture as zoo
from models.finetuning.recipe import Kind
from tests.commands import run_python


def dry_run(data: Path, runs: Path, *options: object) -> subprocess.CompletedProcess:
    words = ("--data", data, "--runs", runs, "--cache", runs.parent / "cache", "--folds", 2, "--image-size", "32x40")
    return run_python("models/vgg16.py", "--dry-run", *words, *options)


def test_it_says_what_would_train_for_how_long_and_writes_nothing(
    tiny_tree: Callable[..., Path], tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    told = dry_run(tiny_tree(), runs, "--batch-size", 16, "--trainable", "from block5", "--epochs", 2, "--fold", 1)
    assert told.returncode == 0, told.stderr
    for words in (
        "settings: image size 32x40, trainable from block5, epochs 2, batch size 16 beside the defaults of",
        "configuration: image size 32x40, crop whole, train images 0,",
        "optimizer adamw, learning rate 0.0002,",
        "fold 1: 40 training images in 3 steps of 16, 40 of held-out drivers, 6 test images",
        "at most 2 epochs, 6 steps, rate up to 0.0002: 4 of 14 layers train, from block5_conv1 to logits: 7,092,234 of",
        "memory   about",
        "time     about",
        "nothing was started",
    ):
        assert words in told.stdout, told.stdout
    assert not runs.exists()


def test_only_what_differs_is_said() -> None:
    vgg16 = zoo.find("vgg16")
    recipe, augmentation = vgg16.settings_for(
        Kind(), {"image_size": ImageSize(64, 80), "ema": 0.99, "auxiliary": False}
    )
    assert as_words(recipe, vgg16.recipe) == ["image size 64x80", "auxiliary no", "ema 0.99"]
    assert as_words(augmentation, vgg16.augmentation) == []
