"""Fold runs: finished or not, with which settings, and what becomes of a corrupted output."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from common.errors import UserError
from common.run_folder import CHECKPOINT, CONFIG, FINISHED, LOG, CorruptedOutputError, RunFolder, verified
from models.finetuning import architecture as zoo
from models.finetuning import fold, fold_run
from models.finetuning.architecture import Bottleneck
from models.finetuning.fold_run import FoldRun


@pytest.fixture
def finished(tmp_path: Path) -> FoldRun:
    run = RunFolder(tmp_path / "run")
    recipe, augmentation = zoo.find("vgg16").settings_for({})
    data = tmp_path / "data"
    recipe = dataclasses.replace(recipe, tta=0)
    work = FoldRun(run, "vgg16", zoo.find("vgg16"), recipe, augmentation, data, weights="none", precision="float32")
    work.folder.path.mkdir(parents=True)
    run.folds.write_text("img,subject,classname,fold\n")
    for name in work.outputs:
        (work.folder / name).write_text("something")
    work.start(work.settings(["a.jpg"]), {})
    (work.folder / CHECKPOINT).parent.mkdir()
    work.folder.finish({"log_loss": 0.5}, work.outputs)
    return work


def test_what_is_trained_again_is_what_lost_an_output_or_has_other_bytes(finished: FoldRun) -> None:
    settings = finished.settings(["a.jpg"])
    assert finished.is_finished(settings)
    for name in [*finished.outputs, CONFIG]:
        path = finished.folder / name
        content, record = path.read_bytes(), (finished.folder / FINISHED).read_bytes()
        assert finished.folder.verified(name) == path == verified(path)
        path.write_bytes(content[:-1] + b"!")
        with pytest.raises(CorruptedOutputError, match=f"{name} is corrupted.*trains it again"):
            verified(path)
        assert not finished.folder.is_finished()
        (finished.folder / FINISHED).write_bytes(record)
        path.unlink(missing_ok=True)
        assert not finished.folder.is_finished()
        path.write_bytes(content)
    assert finished.is_finished(settings)


def test_a_run_of_the_first_edition_is_one_line(finished: FoldRun) -> None:
    record = json.loads((finished.folder / FINISHED).read_text())
    del record["sha256"][CONFIG]
    (finished.folder / FINISHED).write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"earlier edition of this project.*another --run"):
        finished.run.finished()


def test_a_setting_that_is_newer_than_a_run_counts_as_its_default(finished: FoldRun) -> None:
    settings = finished.settings(["a.jpg"])
    older = {name: value for name, value in settings.items() if name not in ("tta", "augmentation_blur")}
    finished.folder.start({"settings": older})
    finished.folder.finish({}, finished.outputs)
    assert finished.is_finished(settings)
    with pytest.raises(UserError, match=r"augmentation_blur was 0\.0, is now 2\.0"):
        finished.is_finished(settings | {"augmentation_blur": 2.0})


def test_other_settings_are_reported_and_all_folds_of_a_model_have_the_same(finished: FoldRun) -> None:
    second = finished.of_fold(1)
    second.require_same_settings(second.settings(["a.jpg"]))
    other = dataclasses.replace(finished, recipe=dataclasses.replace(finished.recipe, epochs=9), precision="auto")
    differences = "epochs was 6, is now 9; precision was 'float32', is now 'auto'"
    with pytest.raises(UserError, match=differences):
        other.is_finished(other.settings(["a.jpg"]))
    with pytest.raises(UserError, match=f"fold_0 was made with other settings: {differences}"):
        other.of_fold(1).require_same_settings(other.settings(["a.jpg"]))
    of_all = other.of_fold("all")
    of_all.require_same_settings(of_all.settings(["a.jpg"]))  # nothing of it is out of fold


def test_a_start_forgets_what_an_earlier_one_finished_or_failed_with(finished: FoldRun) -> None:
    assert not (finished.folder / CHECKPOINT).parent.exists(), "a finished fold has no checkpoint"
    finished.folder.fail("it was killed")
    assert finished.folder.failure() == "it was killed"
    finished.start(finished.settings(["a.jpg"]), {})
    assert not finished.folder.is_finished()
    assert finished.folder.failure() == ""


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (lambda: UserError("the disk is full."), "failed: the disk is full."),
        (lambda: ValueError("a bug"), "failed: ValueError: a bug (full traceback: {log})"),
    ],
)
def test_why_a_fold_failed_is_kept(finished: FoldRun, error: Callable[[], Exception], reason: str) -> None:
    log = finished.folder / LOG
    with pytest.raises(Exception, match=r"full|bug"), fold.failure_recorded([finished.folder]):
        raise error()
    assert finished.folder.failure() == reason.format(log=log)
    assert log.exists() == ("traceback" in reason)
    assert not log.exists() or "raise error()\n" in log.read_text()


def test_its_configuration_file_gives_the_same_fold_run(finished: FoldRun) -> None:
    odd = dataclasses.replace(finished, threads=3, log_to=("mlflow",), cache=finished.cache.resolve(), fold=2)
    assert fold_run.load(odd.save(), 2) == odd
    typed = dataclasses.replace(odd, weights="w")
    assert fold_run.load(typed.save(), 2).weights == str(Path("w").resolve()), "the job starts in another folder"
    recipe = Bottleneck(classifier="svm", regularisation=0.5)
    classifier = dataclasses.replace(odd, model_name="svm", recipe=recipe, augmentation=None)
    assert fold_run.load(classifier.save(), 2) == classifier
    assert (odd.script, classifier.script) == ("vgg16", "bottleneck")
