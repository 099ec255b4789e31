"""The whole ensemble stage on a small run: what it writes, what it says, and that again is cheap."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common.competition import CLASSES
from common.errors import UserError
from common.metric import accuracy, log_loss
from common.run_folder import RunFolder
from common.tables import read_predictions
from ensemble import Options
from ensemble.blend import RECORD, Request, blend_run
from ensemble.calibration import Calibration, clip
from ensemble.members import find_members, read_members
from ensemble.result import Predictions, blended
from tests.commands import here, run_python, succeeded
from tests.fold_runs import finish_fold
from tests.trees import scene, write_noisy


def request_of(small, **changes) -> Request:
    plain = {"run": small.run, "sample": small.sample, "submission": small.submission}
    return Request(**(plain | changes))


def record_of(small) -> dict:
    return json.loads((small.run / "ensemble" / "blend.json").read_text())


def test_whole_path_from_the_command_line(small) -> None:
    done = succeeded(run_python("-m", "ensemble.blend", *small.command, "--labels", small.labels))
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[-1] == str(small.submission)
    assert max(len(line) for line in lines if str(small.root) not in line) <= 100
    for word in ("vgg16", "resnet50", "inception_v3", "weighted geometric", "<- chosen", "p000", "reaching behind"):
        assert word in done.stdout

    submission = pd.read_csv(small.submission)
    assert list(submission.columns) == ["img", *CLASSES]
    assert list(submission["img"]) == list(pd.read_csv(small.sample)["img"])
    np.testing.assert_allclose(submission[list(CLASSES)].sum(axis=1), 1, atol=1e-6)

    truth = small.test_labels.set_index("img").loc[submission["img"], "classname"].map(CLASSES.index).to_numpy()
    loss = log_loss(submission[list(CLASSES)].to_numpy(), truth)
    assert f"{small.submission} on {small.labels}: 45 images, log loss {loss:.5f}" in done.stdout
    scored = here("ensemble.score", small.submission, "--labels", small.labels)
    assert scored.returncode == 0 and scored.stdout.rstrip() in done.stdout
    assert "p901" in scored.stdout and "safe driving" in scored.stdout


def test_every_method_is_scored_on_a_labelled_test_set_and_nothing_is_written(small) -> None:
    done = succeeded(here("ensemble.score", *small.command[:6], "--labels", small.labels))
    assert not (small.run / "ensemble").exists()
    blend_run(request_of(small))
    methods = pd.read_csv(small.run / "ensemble" / "methods.csv").set_index("method")
    truth = small.test_labels.set_index("img")["classname"].map(CLASSES.index)
    submission = read_predictions(small.submission)
    last = done.stdout.splitlines()[-1].split()
    assert float(last[-3]) == pytest.approx(
        log_loss(submission.to_numpy(), truth[submission.index].to_numpy()), abs=1e-4
    )
    (single,) = [line.split() for line in done.stdout.splitlines() if line.startswith("best single  ")]
    assert float(single[2]) == pytest.approx(methods.loc["best single", "cross_fitted"], abs=1e-4)


def test_what_lies_in_the_run_folder(small) -> None:
    text = blend_run(request_of(small))
    folder = small.run / "ensemble"
    assert (folder / "report.txt").read_text() == text
    record = record_of(small)
    assert [member["name"] for member in record["members"]] == ["inception_v3", "resnet50", "vgg16"]
    assert sum(record["weights"].values()) == pytest.approx(1)
    assert {path.name for path in folder.iterdir()} | {str(small.submission.resolve())} == {RECORD, *record["outputs"]}
    assert len(record["inputs"]) == 2 + 3 * 3 * 2 and "vgg16/fold_0/test.csv" in record["inputs"]
    methods = pd.read_csv(folder / "methods.csv").set_index("method")
    simple = {f"{how} {pool}" for how in ("uniform", "weighted") for pool in ("arithmetic", "geometric")}
    assert simple | {"best single"} < set(methods.index)
    chosen = methods.loc[record["method"]]
    assert chosen["chosen"] and chosen["behind"] <= chosen["standard_error"]  # one standard error

    table = read_predictions(folder / "out_of_fold.csv")
    assert list(table.index) == list(small.folds["img"])
    labels = small.folds["classname"].map(CLASSES.index).to_numpy()
    assert log_loss(table.to_numpy(), labels) == pytest.approx(record["nested_log_loss"], abs=1e-6)
    pd.testing.assert_frame_equal(read_predictions(folder / "test.csv"), read_predictions(small.submission))

    scores = pd.read_csv(folder / "scores.csv")
    assert len(scores) == 5 * 4 and set(scores["fold"]) == {"0", "1", "2", "all"}
    overall = scores[scores["fold"] == "all"].set_index("name")["log_loss"]
    members = pd.concat([read_predictions(small.fold_folder("vgg16", fold) / "out_of_fold.csv") for fold in range(3)])
    assert overall["vgg16"] == pytest.approx(log_loss(members.loc[table.index].to_numpy(), labels))
    assert overall["blend, fitted"] < overall[["vgg16", "resnet50", "inception_v3"]].min()
    drivers, classes = pd.read_csv(folder / "by_driver.csv"), pd.read_csv(folder / "by_class.csv")
    assert set(drivers["subject"]) == set(small.folds["subject"]) and (drivers["images"] == 20).all()
    assert list(classes["classname"]) == list(CLASSES) and (classes["images"] == 18).all()
    for frame in (drivers, classes):
        assert frame["log_loss"].mean() == pytest.approx(record["nested_log_loss"], abs=1e-6)


def test_submission_is_the_blend_of_the_mean_of_the_fold_models(small) -> None:
    options = Options(match_prior="no", neighbours=False)
    blend_run(request_of(small, models=("vgg16",), options=options))
    tables = [read_predictions(small.fold_folder("vgg16", fold) / "test.csv") for fold in range(3)]
    images = list(pd.read_csv(small.sample)["img"])
    mean = sum(table.loc[images].to_numpy() for table in tables) / 3
    record = record_of(small)
    assert record["method"].startswith("single") and record["blend"]["pool"] == "arithmetic"
    scale = record["scales_of_fold_means"][0]
    assert scale > 1
    expected = Calibration(scale).predict(mean)
    if after := record["blend"]["calibration"]:
        expected = Calibration(after["scale"], tuple(after["bias"])).predict(expected)
    np.testing.assert_allclose(read_predictions(small.submission), clip(expected, record["clip"]), atol=1e-8)


def test_drivers_are_recognised_and_each_is_moved_towards_the_prior(small) -> None:
    """A model that is mistaken about each driver in its own way, on photographs that tell the drivers apart."""
    truth = small.test_labels.set_index("img")["subject"]
    images = {
        **{f"imgs/train/{row.classname}/{row.img}": row.subject for row in small.folds.itertuples()},
        **{f"imgs/test/{img}": subject for img, subject in truth.items()},
    }
    random = np.random.default_rng(0)
    drivers = sorted(set(images.values()))
    scenes = {driver: scene(random) for driver in drivers}
    biases = {driver: np.exp(1.5 * random.normal(size=10)) for driver in drivers}
    for fold in range(3):
        for name, subjects in (("out_of_fold.csv", small.folds.set_index("img")["subject"]), ("test.csv", truth)):

            def mistaken(table: pd.DataFrame, subjects: pd.Series = subjects) -> pd.DataFrame:
                values = table[list(CLASSES)] * np.stack([biases[subjects[img]] for img in table["img"]])
                return table.assign(**values.div(values.sum(axis=1), axis=0))

            small.change(small.fold_folder("resnet50", fold) / name, mistaken)
    one = request_of(small, models=("resnet50",), options=Options(match_prior="yes"))
    blend_run(one)
    without = record_of(small)["nested_log_loss"]
    for path, driver in images.items():
        write_noisy(small.data / path, scenes[driver], random)
    text, record = blend_run(one), record_of(small)  # other photographs, so it blends again
    assert record["nested_log_loss"] < 0.8 * without
    assert f"each of {record['recognised_test_drivers']} drivers in the test set" in text
    for img in truth.index:
        (small.data / "imgs" / "test" / img).unlink()
    blend_run(one)
    assert record_of(small)["recognised_test_drivers"] is None, "what helps out of fold alone is no promise"


def test_photographs_of_one_video_share_their_class(tmp_path: Path) -> None:
    """Six drivers, one square in the picture for each class; a tenth of the predictions is wrong."""
    random = np.random.default_rng(0)
    drivers, labels = np.repeat(np.arange(6), 160), np.tile(np.repeat(np.arange(10), 16), 6)
    scenes, paths = [scene(random, (96, 128)) for _ in range(6)], []
    for driver, label in zip(drivers, labels, strict=True):
        picture, row, column = scenes[driver].copy(), *divmod(int(label), 5)
        picture[20 + 36 * row : 40 + 36 * row, 4 + 25 * column : 24 + 25 * column] = 255
        paths.append(tmp_path / f"img_{len(paths)}.jpg")
        write_noisy(paths[-1], picture, random)
    wrong = np.where(random.random(960) < 0.1, random.integers(0, 10, 960), labels)
    table = (0.02 + 0.8 * np.eye(10)[wrong])[None]
    subjects, classes = [f"p{driver}" for driver in drivers], np.array(CLASSES)[labels]
    images = pd.DataFrame({"img": [path.name for path in paths], "subject": subjects, "classname": classes})
    known, new = images[:640].assign(fold=drivers[:640]), pd.Index(images["img"][640:])
    every = Predictions(
        *(("a",), known, labels[:640], table[:, :640], new, table[:, 640:]),
        photographs=tuple(paths[:640]),
        test_photographs=tuple(paths[640:]),
    )
    steps, truth = blended(every, Options(match_prior="no")).test_steps, labels[640:]
    assert accuracy(steps["prior"], truth) < 0.95 and accuracy(steps["clusters"], truth) == 1
    assert log_loss(steps["clusters"], truth) < 0.3 * log_loss(steps["prior"], truth)
    off = blended(every, Options(match_prior="no", driver_clusters="no")).test_steps
    np.testing.assert_array_equal(off["clusters"], off["prior"])


def test_again_does_nothing_until_an_input_or_output_changes(small) -> None:
    one = request_of(small, models=("vgg16",))
    text = blend_run(one)
    before, content = small.submission.stat().st_mtime_ns, small.submission.read_bytes()
    again = blend_run(one)
    assert again.startswith(text) and "nothing to do" in again
    assert small.submission.stat().st_mtime_ns == before

    assert "nothing to do" not in blend_run(request_of(small, models=("vgg16", "resnet50")))
    assert "nothing to do" not in blend_run(one)

    small.change(small.fold_folder("vgg16", 0) / "test.csv", lambda table: table.iloc[::-1])
    assert "nothing to do" not in blend_run(one)
    small.submission.write_text("img\n")
    assert "nothing to do" not in blend_run(one)
    assert small.submission.read_bytes() == content, "the order of a table's rows changes nothing"
    (small.run / "ensemble" / "blend.json").write_text("{")
    assert "nothing to do" not in blend_run(one)
    assert "nothing to do" in blend_run(one)


def test_allow_missing_blends_what_every_model_covers_and_says_so(small) -> None:
    shutil.rmtree(small.fold_folder("resnet50", 1))
    (small.fold_folder("vgg16", 2) / "finished.json").unlink()
    for fold in range(3):
        (small.fold_folder("inception_v3", fold) / "finished.json").unlink()
    text = blend_run(request_of(small, allow_missing=True))
    assert "INCOMPLETE" in text and "resnet50 lacks fold 1" in text and "60 of 180 images" in text
    record = record_of(small)
    assert set(record["weights"]) == {"resnet50", "vgg16"} and record["images"] == 60
    assert set(read_predictions(small.run / "ensemble" / "out_of_fold.csv").index) == set(
        small.folds.loc[small.folds["fold"] == 0, "img"]
    )
    assert len(read_predictions(small.submission)) == 45


def test_a_network_of_all_drivers_stands_beside_or_instead_of_the_folds_on_the_test_set_alone(small) -> None:
    with pytest.raises(UserError, match=r"no model .* has a finished fold_all.*--fold all"):
        blend_run(request_of(small, options=Options(all_drivers="beside")))
    shutil.copytree(small.fold_folder("resnet50", 0), small.run / "vgg16" / "fold_all")
    (small.run / "vgg16" / "fold_all" / "out_of_fold.csv").unlink()
    finish_fold(small.run, "vgg16", "all")
    assert "fold_all of vgg16 is not used" in blend_run(request_of(small))
    images = pd.Index(pd.read_csv(small.sample)["img"])
    found = {}
    for how in ("no", "beside", "instead"):
        run = RunFolder(small.run)
        found[how] = read_members(run, find_members(run, range(3), ["vgg16"]), small.folds, images, how)
        np.testing.assert_array_equal(found[how].out_of_fold, found["no"].out_of_fold)
    alone = read_predictions(small.fold_folder("resnet50", 0) / "test.csv")
    np.testing.assert_allclose(found["instead"].test[0], alone.loc[images].to_numpy())
    assert [found[how].scales[0] > 1 for how in ("no", "beside", "instead")] == [True, True, False]
    text = blend_run(request_of(small, options=Options(all_drivers="instead")))
    assert "fold_all of vgg16 is used instead of its folds" in text
    assert "vgg16/fold_all/test.csv" in record_of(small)["inputs"]
