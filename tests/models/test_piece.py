"""Pieces: finished or not, and made with which settings."""

import dataclasses
import errno
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from common.errors import UserError
from common.finished import FINISHED, damaged_outputs, require_whole, why_it_failed
from common.run_folder import REPOSITORY
from models.finetuning import architecture as zoo
from models.finetuning import command, fold
from models.finetuning import piece as pieces
from models.finetuning.bottleneck import folds as bottleneck_folds
from models.finetuning.piece import OUTPUTS, Piece, is_finished
from models.finetuning.recipe import Kind

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
    with pytest.raises(UserError, match=r"driver_mixing was 0.0, is now 0.5"):
        is_finished(changed, changed.settings(["a.jpg"]))


def test_a_piece_of_an_older_revision_that_left_fewer_files_is_finished(finished: Piece) -> None:
    more = dataclasses.replace(finished, outputs=(*OUTPUTS, "new.csv"))
    assert is_finished(more, more.settings(["a.jpg"]))


def test_a_precision_that_was_chosen_goes_on_by_its_name(finished: Piece) -> None:
    named = dataclasses.replace(finished, precision="float32")
    pieces.begin(finished, finished.settings(["a.jpg"]), {}, "float32")  # as --precision auto would record it
    record = json.loads((finished.folder / "config.json").read_text())
    record["settings"]["precision"] = "auto"
    (finished.folder / "config.json").write_text(json.dumps(record))
    pieces.finish(finished, {})
    assert is_finished(named, named.settings(["a.jpg"]))
    second = dataclasses.replace(named, fold=1)
    pieces.require_made_as_others(second, second.settings(["a.jpg"]))
    other = dataclasses.replace(finished, precision="mixed_float16")
    with pytest.raises(UserError, match="precision was 'auto', is now 'mixed_float16'"):
        is_finished(other, other.settings(["a.jpg"]))


def test_a_piece_that_another_process_finished_meanwhile_is_left_as_it_is(finished: Piece, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.folder.iterdir()}
    assert before
    nothing = cast(Any, None)  # of the data is looked at
    fold.train_fold(finished, nothing, nothing, finished.settings(["a.jpg"]), tmp_path, 0)
    bottleneck_folds.make_folds([(finished, finished.settings(["a.jpg"]))], nothing, nothing, tmp_path, 0)
    assert before == {path: path.stat().st_mtime_ns for path in finished.folder.iterdir()}


def test_the_checkpoint_that_a_killed_process_could_not_remove_goes_with_the_next_start(finished: Piece) -> None:
    (finished.folder / pieces.CHECKPOINT).parent.mkdir()
    (finished.folder / pieces.CHECKPOINT).write_text("a state")
    dataset = cast(Any, SimpleNamespace(test=["a.jpg"], broken_test=()))
    assert command.unfinished([finished], dataset) == []
    assert not (finished.folder / pieces.CHECKPOINT).parent.exists()


def test_folds_of_one_model_are_made_alike(finished: Piece) -> None:
    second = dataclasses.replace(finished, fold=1)
    pieces.require_made_as_others(second, second.settings(["a.jpg"]))
    other = dataclasses.replace(second, recipe=dataclasses.replace(finished.recipe, epochs=9))
    with pytest.raises(
        UserError, match=r"fold_0 was made with other settings than fold 1 would be: epochs was 6, is now 9"
    ):
        pieces.require_made_as_others(other, other.settings(["a.jpg"]))
    of_all = dataclasses.replace(other, fold="all")
    pieces.require_made_as_others(of_all, of_all.settings(["a.jpg"]))  # nothing of it is out of fold


@pytest.mark.parametrize("name", ["config.json", FINISHED])
def test_a_record_that_cannot_be_read_now_costs_no_finished_piece(
    finished: Piece, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, opened = finished.settings(["a.jpg"]), Path.read_bytes

    def silent(path: Path) -> bytes:
        if path == finished.folder / name:
            raise OSError(errno.ESTALE, "Stale file handle")
        return opened(path)

    others = dataclasses.replace(finished, fold=1)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", silent)
        looks = [lambda: is_finished(finished, settings)]
        if name == FINISHED:
            looks += [lambda: damaged_outputs(finished.folder), lambda: require_whole(finished.folder / "test.csv")]
        else:
            looks += [lambda: pieces.require_made_as_others(others, others.settings(["a.jpg"]))]
        for look in looks:
            with pytest.raises(
                UserError, match=rf"Stale file handle.*Start again, or delete {finished.folder} to have"
            ):
                look()
    assert is_finished(finished, settings)


def test_the_command_of_a_piece_is_kept_less_its_fold() -> None:
    words = [str(REPOSITORY / "models" / "vgg16.py"), "--run", "x", "--fold", "0", "1", "--epochs", "3", "--fold=2"]
    assert pieces.command_words(words) == ["python", "models/vgg16.py", "--run", "x", "--epochs", "3"]
    assert pieces.command_words(["/usr/bin/pytest", "-x"]) == []


def test_other_settings_are_told_and_a_lost_output_is_made_again(finished: Piece) -> None:
    other = dataclasses.replace(finished, recipe=dataclasses.replace(finished.recipe, epochs=9))
    with pytest.raises(UserError, match=r"epochs was \d, is now 9"):
        is_finished(other, other.settings(["a.jpg"]))
    (finished.folder / "model.keras").unlink()
    assert not is_finished(finished, finished.settings(["a.jpg"]))


def test_a_bug_leaves_its_last_line_and_its_traceback_and_a_mistake_its_message(finished: Piece) -> None:
    log = finished.folder / "log.txt"
    with pytest.raises(UserError), pieces.failure_recorded([finished]):
        raise UserError("expected this, found that")
    assert why_it_failed(finished.folder) == "failed: expected this, found that"
    assert not log.exists()
    with pytest.raises(ValueError), pieces.failure_recorded([finished]):
        raise ValueError("Input size must be\nat least 32x32")
    said = why_it_failed(finished.folder)
    assert said == f"failed: ValueError: Input size must be at least 32x32 (full traceback: {log})"
    assert "Traceback" in log.read_text() and "test_piece.py" in log.read_text()
