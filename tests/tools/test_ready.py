"""What run_all.sh asks before it trains the first of several models."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from common.run_folder import REPOSITORY


def ready(data: Path, folder: Path, *words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "tools.ready", "--data", str(data), "--weights", "none", "--folds", "2"]
    command += ["--runs", str(folder / "runs"), "--cache", str(folder / "cache"), *words]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_all_models_have_something_left_at_first(tiny_tree: Callable[..., Path], tmp_path: Path) -> None:
    data = tiny_tree()
    for models in ("vgg16 resnet50", "vgg16,resnet50,vgg16"):
        told = ready(data, tmp_path, "--models", models)
        assert (told.returncode, told.stdout) == (0, "vgg16 resnet50\n"), told.stderr
    told = ready(data, tmp_path, "--models", " ")
    assert (told.returncode, "error: --models is empty" in told.stderr) == (2, True), told.stderr


def test_a_layer_that_the_second_model_lacks_is_told_before_the_first_trains(
    tiny_tree: Callable[..., Path], tmp_path: Path
) -> None:
    words = ["--models", "vgg16 mobilenet", "--trainable", "from block5_conv1", "--image-size", "32x32"]
    told = ready(tiny_tree(), tmp_path, *words)
    assert told.returncode == 2
    assert "no such layer or block" in told.stderr
    assert "conv_dw_13" in told.stderr
    assert "Traceback" not in told.stderr


def test_settings_that_the_second_model_refuses_are_told_too(tiny_tree: Callable[..., Path], tmp_path: Path) -> None:
    told = ready(tiny_tree(), tmp_path, "--models", "vgg16 inception_v3", "--image-size", "48x64")
    assert told.returncode == 2
    assert "inception_v3 needs at least 75x75" in told.stderr
