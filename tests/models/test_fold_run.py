"""Fold runs: finished or not, with which settings, and what becomes of a corrupted output."""

import dataclasses
import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from common.errors import UserError
from common.files import sha256_of, write_json
from common.run_folder import CHECKPOINT, CONFIG, FINISHED, LOG, CorruptedOutputError, RunFolder, verified
from models.finetuning import architecture as zoo
from models.finetuning import bottleneck, fold, fold_run
from models.finetuning.fold_run import FoldRun
from models.finetuning.recipe import Bottleneck, Kind


@pytest.fixture
def finished(tmp_path: Path) -> FoldRun:
    run = RunFolder(tmp_path / "run")
    recipe, augmentation = zoo.find("vgg16").settings_for(Kind(), {})
    data = tmp_path / "data"
    recipe = dataclasses.replace(recipe, tta=0)
    work = FoldRun(run, "vgg16", zoo.find("vgg16"), recipe, augmentation, data, weights="none", precision="float32")
    work.folder.path.mkdir(parents=True)
    run.folds.write_text("img,subject,classname,fold\n")
    for name in work.outputs:
        (work.folder / name).write_text("something")
    work.start(work.settings(["a.jpg"]), {})
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


def test_a_corrupted_configuration_is_trained_again(finished: FoldRun) -> None:
    config = finished.folder / CONFIG
    config.write_text(config.read_text().replace('"seed": 0', '"seed": 1'))
    for _ in range(2):  # the plan asks, and then the process that trains
        assert not finished.is_finished(finished.settings(["a.jpg"]))


@pytest.mark.parametrize("name", ["x" * 300, "../outside.csv", "", "a\0b"])
def test_a_record_that_names_what_cannot_be_an_output_is_not_finished(finished: FoldRun, name: str) -> None:
    outside = finished.run.path / "outside.csv"
    outside.write_text("")
    sums = {CONFIG: sha256_of(finished.folder / CONFIG), name: sha256_of(outside)}
    write_json(finished.folder / FINISHED, {"sha256": sums})
    assert not finished.folder.is_finished()


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"{}", b'{"sha256": []}'])
def test_a_record_that_is_no_record_is_not_finished(finished: FoldRun, content: bytes) -> None:
    (finished.folder / FINISHED).write_bytes(content)
    assert not finished.is_finished(finished.settings(["a.jpg"]))


def test_a_run_of_the_first_edition_is_one_line(finished: FoldRun) -> None:
    record = json.loads((finished.folder / FINISHED).read_text())
    del record["sha256"][CONFIG]
    (finished.folder / FINISHED).write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"earlier edition of this project.*another --run") as error:
        finished.run.finished()
    assert "\n" not in str(error.value)


def test_other_settings_are_reported(finished: FoldRun) -> None:
    other = dataclasses.replace(finished, recipe=dataclasses.replace(finished.recipe, epochs=9))
    with pytest.raises(UserError, match=r"epochs was 6, is now 9"):
        other.is_finished(other.settings(["a.jpg"]))
    precise = dataclasses.replace(finished, precision="mixed_bfloat16")
    with pytest.raises(UserError, match="precision was 'float32', is now 'mixed_bfloat16'"):
        precise.is_finished(precise.settings(["a.jpg"]))


def test_a_setting_that_is_newer_than_a_run_counts_as_its_default(finished: FoldRun) -> None:
    settings = finished.settings(["a.jpg"])
    older = {name: value for name, value in settings.items() if name not in ("tta", "augmentation_blur")}
    finished.folder.start({"settings": older})
    finished.folder.finish({}, finished.outputs)
    assert finished.is_finished(settings)
    with pytest.raises(UserError, match="augmentation_blur was None, is now 2"):
        finished.is_finished(settings | {"augmentation_blur": 2.0})


def test_all_folds_of_a_model_have_the_same_settings(finished: FoldRun) -> None:
    second = finished.of_fold(1)
    second.require_same_settings(second.settings(["a.jpg"]))
    other = dataclasses.replace(second, recipe=dataclasses.replace(finished.recipe, epochs=9))
    with pytest.raises(UserError, match=r"fold_0 was made with other settings than fold 1 would be: epochs was 6, is"):
        other.require_same_settings(other.settings(["a.jpg"]))
    of_all = other.of_fold("all")
    of_all.require_same_settings(of_all.settings(["a.jpg"]))  # nothing of it is out of fold


def test_other_weights_of_the_same_name_are_reported(finished: FoldRun) -> None:
    settings = finished.settings(["a.jpg"])
    finished.folder.start({"settings": settings | {"weights": "sha256:11"}})
    finished.folder.finish({}, finished.outputs)
    with pytest.raises(UserError, match=r"from weights sha256:11, now they are sha256:22.*corrupted"):
        finished.of_fold(1).require_same_settings(settings | {"weights": "sha256:22"})


@pytest.mark.parametrize("name", [CONFIG, FINISHED])
def test_a_record_that_cannot_be_read_now_costs_no_finished_fold(
    finished: FoldRun, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, opened = finished.settings(["a.jpg"]), Path.read_bytes

    def silent(path: Path) -> bytes:
        if path == finished.folder / name:
            raise OSError(errno.ESTALE, "Stale file handle")
        return opened(path)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", silent)
        with pytest.raises(UserError, match=rf"Stale file handle.*Try again, or delete {finished.folder.path}"):
            finished.is_finished(settings)
    assert finished.is_finished(settings)


def test_what_another_process_finished_meanwhile_is_left_as_it_is(finished: FoldRun) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.folder.path.iterdir()}

    class Data:
        test, broken_test = ("a.jpg",), frozenset[str]()

    data, nothing = cast(Any, Data), cast(Any, None)  # nothing else of it is looked at
    fold.train_fold(finished, data, nothing)
    bottleneck.train_folds([finished], data, nothing)
    assert before == {path: path.stat().st_mtime_ns for path in finished.folder.path.iterdir()}


def test_a_start_forgets_what_an_earlier_one_finished_or_failed_with(finished: FoldRun) -> None:
    finished.folder.fail("it was killed")
    assert finished.folder.failure() == "it was killed"
    finished.start(finished.settings(["a.jpg"]), {})
    assert not finished.folder.is_finished()
    assert finished.folder.failure() == ""


def test_a_finished_fold_has_no_checkpoint(finished: FoldRun) -> None:
    (finished.folder / CHECKPOINT).parent.mkdir()
    (finished.folder / CHECKPOINT).write_text("")
    finished.folder.finish({}, finished.outputs)
    assert not (finished.folder / CHECKPOINT).parent.exists()


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
    settings = Bottleneck(classifier="svm", regularisation=0.5)
    classifier = dataclasses.replace(odd, model_name="svm", recipe=settings, augmentation=None)
    assert fold_run.load(classifier.save(), 2) == classifier
    assert (odd.script, classifier.script) == ("vgg16", "bottleneck")


@pytest.mark.parametrize("change", [{"recipe": {"epoch": 1}}, {"extra": 1}, {"augmentation": {"rotation": "much"}}])
def test_another_file_is_no_configuration(finished: FoldRun, change: dict[str, Any]) -> None:
    path = finished.save()
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match="expected"):
        fold_run.load(path)


def test_which_outputs_it_leaves(finished: FoldRun) -> None:
    plain = set(finished.outputs)
    augmented = dataclasses.replace(finished, recipe=dataclasses.replace(finished.recipe, tta=4))
    assert {*augmented.outputs} - plain == {"out_of_fold_without_tta.csv", "test_without_tta.csv"}
    assert not any(name.startswith("out_of_fold") for name in augmented.of_fold("all").outputs)
