"""Every bad input is one line that names the file and the first offenders."""

import shutil

import numpy as np
import pandas as pd
import pytest

from common.errors import UserError
from common.files import sha256_of
from common.run_folder import RunFolder
from common.tables import read_sample_images, write_predictions
from ensemble import submit
from ensemble.blend import Request, blend_run
from ensemble.report import score_text
from tests.commands import here, refusal
from tests.fold_runs import finish_fold


def refused(small, **changes) -> str:
    request = Request(**({"run": small.run, "sample": small.sample, "submission": small.submission} | changes))
    with pytest.raises(UserError) as caught:
        blend_run(request)
    assert not small.submission.exists() and not (small.run / "ensemble").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_folds_are_named(small) -> None:
    shutil.rmtree(small.fold_folder("vgg16", 1))
    (small.fold_folder("vgg16", 2) / "finished.json").unlink()
    message = refused(small)
    assert "vgg16 lacks fold 1, 2: python models/vgg16.py --run trial" in message
    assert "--allow-missing" in message and "resnet50" not in message
    path = RunFolder(small.run).job_file("vgg16")
    path.write_text('{"architecture": "vgg16"}')
    start = f"python models/vgg16.py --config {path} --fold"
    assert f"vgg16 lacks fold 1, 2: {start} 1; {start} 2." in refused(small), "a process trains one fold"


def test_nothing_to_blend(small) -> None:
    assert "no model vgg61; expected among inception_v3, resnet50, vgg16" in refused(small, models=("vgg61",))
    for model in ("vgg16", "resnet50", "inception_v3"):
        shutil.rmtree(small.run / model)
    assert "holds no models" in refused(small)
    (small.run / "folds.csv").unlink()
    assert "folds.csv" in refused(small)


def test_folds_that_changed_since_the_training_are_refused(small) -> None:
    path = small.fold_folder("resnet50", 1) / "config.json"
    finish_fold(small.run, "resnet50", 1, {"folds_sha256": sha256_of(small.run / "folds.csv")})
    blend_run(Request(small.run, small.sample, small.submission, ("resnet50",)))
    small.submission.unlink()
    shutil.rmtree(small.run / "ensemble")
    small.change(small.run / "folds.csv", lambda table: table.assign(fold=2 - table["fold"]))
    message = refused(small)
    assert f"folds.csv has changed since {path.parent} was trained" in message and "vgg16" not in message


def test_no_fold_in_common(small) -> None:
    for model, fold in (("vgg16", 0), ("resnet50", 1), ("inception_v3", 2)):
        (small.fold_folder(model, fold) / "finished.json").unlink()
    assert "no fold is finished by all models" in refused(small, allow_missing=True)
    for path in small.run.glob("*/fold_*/finished.json"):
        path.unlink()
    assert "no fold of any model is finished" in refused(small, allow_missing=True)


@pytest.mark.parametrize("name", ["out_of_fold.csv", "test.csv"])
def test_table_is_gone_or_lacks_images_or_has_others(small, name: str) -> None:
    path = small.fold_folder("resnet50", 1) / name
    first, last = pd.read_csv(path)["img"].iloc[[0, -1]]
    small.change(path, lambda table: table.iloc[:-1])
    message = refused(small)
    assert str(path) in message and f"1 missing ({last})" in message
    small.change(path, lambda table: table.assign(img=table["img"].replace({first: "strange.jpg"})))
    message = refused(small)
    assert "2 missing (" in message and first in message and "do not belong there (strange.jpg)" in message
    path.unlink()
    assert "resnet50 lacks fold 1" in refused(small)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("sample", lambda table: table.rename(columns={"img": "image"}), "expected the columns"),
        ("sample", lambda table: table.iloc[:0], "0 rows"),
        ("sample", lambda table: table.iloc[[*range(len(table)), 0]], "more than once"),
        ("submission", lambda table: table.iloc[:-1], "1 missing"),
        ("submission", lambda table: table.iloc[::-1], "order"),
        ("submission", lambda table: table.replace({"img": {table["img"][3]: "x.jpg"}}), r"not belong there \(x.jpg\)"),
        ("submission", lambda table: table, "is of 45 images.*Kaggle expects the competition's 79,726"),
        ("labels", lambda table: table.iloc[1:], r"found none for 1: img_\d+\.jpg"),
        ("labels", lambda table: table.assign(classname="c10"), "expected classes c0 to c9"),
        ("labels", lambda table: table.iloc[[*range(len(table)), 0]], "more than once"),
        ("labels", lambda table: table.drop(columns="classname"), "expected the columns img,classname"),
        ("labels", lambda table: table.assign(img=table["img"].where(table.index != 3)), "1 rows have no image name"),
    ],
)
def test_malformed_tables(small, name: str, change: object, words: str) -> None:
    write_predictions(small.submission, list(read_sample_images(small.sample)), np.full((45, 10), 0.1))
    path = small.change(getattr(small, name), change)
    with pytest.raises(UserError, match=words) as caught:
        if name == "labels":
            score_text(small.submission, small.labels)
        submit.check(small.submission, small.sample)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("module", "words", "expected"),
    [
        ("ensemble.blend", ("--run", "absent"), "no such run"),
        ("ensemble.blend", ("--run", "a/b"), "expected letters"),
        ("ensemble.submit", ("leaderboard",), "'leaderboard' is reserved"),
        ("ensemble.submit", ("nothing-of-this-name",), "no such submission"),
        ("ensemble.submit", ("trial", "--wait", "nan"), "expected 0 to 1000000, found nan"),
        ("ensemble.blend", ("--label", "x"), "Did you mean --labels?"),
        ("ensemble.blend", ("--labels", "absent.csv"), "absent.csv: cannot be read as labels"),
        ("ensemble.score", ("no.csv", "--labels", "no.csv"), "no.csv: cannot be read as a prediction table"),
        ("ensemble.score", ("--labels", "absent.csv"), "expected either a prediction table or --run NAME"),
    ],
)
def test_commands_end_with_one_line_before_any_work(small, module: str, words: tuple[str, ...], expected: str) -> None:
    assert expected in refusal(here(module, *(small.command if module == "ensemble.blend" else ()), *words))
    assert not small.submission.exists()
