"""Pieces: finished or not, and made with which settings."""

import dataclasses
import json
from pathlib import Path

import pytest

from models.finetuning import architecture as zoo
from models.finetuning import piece as pieces
from models.finetuning.piece import OUTPUTS, Piece, is_finished
from models.finetuning.recipe import Kind
from preprocessing.errors import UserError
from preprocessing.run_folder import REPOSITORY

SINCE_THEN = ("tta", "augmentation_driver_mixing")


@pytest.fixture
def finished(tmp_path: Path) -> Piece:
    run = tmp_path / "run"
    recipe, augmentation = zoo.find("vgg16").settings_for(Kind(), {})
    made = Piece(run, "vgg16", zoo.find("vgg16"), recipe, 0, "none", "float32", 0, 1, augmentation)
    made.folder.mkdir(parents=True)
    (run / "folds.csv").write_text("img,subject,classname,fold\n")
    for name in OUTPUTS:
        (made.folder / name).write_text("something")
    pieces.begin(made, made.settings(["a.jpg"]), {}, "float32")
    pieces.finish(made, {})
    return made


def test_a_piece_older_than_a_setting_counts_as_made_with_its_default(finished: Piece) -> None:
    config = finished.folder / "config.json"
    record = json.loads(config.read_text())
    for name in SINCE_THEN:
        record["settings"].pop(name, None)
    config.write_text(json.dumps(record))
    assert is_finished(finished, finished.settings(["a.jpg"]))
    assert finished.augmentation is not None
    changed = dataclasses.replace(finished, augmentation=dataclasses.replace(finished.augmentation, driver_mixing=0.5))
    with pytest.raises(UserError, match=r"driver_mixing 0.0 there, 0.5 now"):
        is_finished(changed, changed.settings(["a.jpg"]))


def test_folds_of_one_model_are_made_alike(finished: Piece) -> None:
    second = dataclasses.replace(finished, fold=1)
    pieces.require_made_as_others(second, second.settings(["a.jpg"]))
    other = dataclasses.replace(second, recipe=dataclasses.replace(finished.recipe, epochs=9))
    with pytest.raises(
        UserError, match=r"fold_0 was made with other settings than fold 1 would be: epochs 4 there, 9 now"
    ):
        pieces.require_made_as_others(other, other.settings(["a.jpg"]))
    of_all = dataclasses.replace(other, fold="all")
    pieces.require_made_as_others(of_all, of_all.settings(["a.jpg"]))  # nothing of it is out of fold


def test_the_command_of_a_piece_is_kept_less_its_fold() -> None:
    words = [str(REPOSITORY / "models" / "vgg16.py"), "--run", "x", "--fold", "0", "1", "--epochs", "3", "--fold=2"]
    assert pieces.command_words(words) == ["python", "models/vgg16.py", "--run", "x", "--epochs", "3"]
    assert pieces.command_words(["/usr/bin/pytest", "-x"]) == []


def test_other_settings_are_told_and_a_lost_output_is_made_again(finished: Piece) -> None:
    other = dataclasses.replace(finished, recipe=dataclasses.replace(finished.recipe, epochs=9))
    with pytest.raises(UserError, match=r"epochs \d there, 9 now"):
        is_finished(other, other.settings(["a.jpg"]))
    (finished.folder / "model.keras").unlink()
    assert not is_finished(finished, finished.settings(["a.jpg"]))
