"""Lists of experiments: what the file may say, the whole path on a tiny tree, paired differences, a search."""

import importlib.util
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from common.competition import CLASSES
from common.errors import UserError
from common.metric import log_loss_per_image, paired_difference
from common.run_folder import REPOSITORY
from common.tables import read_predictions
from models.finetuning.architecture import NoEffectError
from tests.commands import here, refusal, run_python, succeeded
from tests.ensemble.conftest import make_small
from tests.tools.conftest import EXPERIMENTS
from tests.trees import make_tree
from tools import experiments
from tools.experiments import Plan, Setup, make_parser, read_plan, result, work_of, write_table

FILES = sorted((REPOSITORY / "docs" / "experiments").glob("*.toml"))
HEAD = 'architecture = "vgg16"\n'


def plan_of(text: str, folder: Path) -> Plan:
    (folder / "file.toml").write_text(text)
    return read_plan(folder / "file.toml")


def type_command(folder: Path, file: Path, *words: str) -> subprocess.CompletedProcess:
    places = ["--data", folder / "data", "--runs", folder / "runs", "--cache", folder / "cache", "--weights", "none"]
    return run_python("-m", "tools.experiments", file, "--folds", "2", "--run", "tried", *places, *words, timeout=400)


TINY = f"""{EXPERIMENTS}
[experiments.wild]
optimizer = "sgd"
learning_rate = 10.0
clip_norm = 0.0
warmup = 0.0
head_l2 = 10.0
epochs = 9
"""


@pytest.mark.slow
def test_it_trains_compares_records_what_fails_and_resumes(tmp_path: Path) -> None:
    make_tree(tmp_path / "data")
    file, path = tmp_path / "file.toml", tmp_path / "runs" / "tried" / "experiments.csv"
    file.write_text(TINY)
    done = succeeded(type_command(tmp_path, file))
    table = pd.read_csv(path).set_index("experiment")
    assert table.loc["reference", "result"] == "reference"
    assert table.loc["wild", "result"].startswith("failed: ")
    assert np.isfinite(table.loc["features", ["log_loss", "difference", "difference_error"]].astype(float)).all()
    assert done.stdout.splitlines()[-1] == str(path)

    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("finished.json")}
    assert len(finished) == 4
    succeeded(type_command(tmp_path, file, "--only", "features"))
    assert finished == {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("finished.json")}
    assert set(pd.read_csv(path)["experiment"]) == {"reference", "wild", "features"}, "earlier rows stay"
    succeeded(type_command(tmp_path, file, "--report"))

    file.write_text(TINY.replace("epochs = 0", "epochs = 1"))
    other = type_command(tmp_path, file)
    assert (other.returncode, "epochs was 0, is now 1" in other.stderr) == (2, True), other.stderr


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="needs Optuna")
def test_a_search_proposes_records_and_resumes(tmp_path: Path) -> None:
    make_tree(tmp_path / "data")
    file = tmp_path / "file.toml"
    file.write_text(
        'architecture = "mobilenet"\ntrials = 1\n'
        'settings = { image_size = "32x32", head_start = "logistic", epochs = 0 }\n'
        "[experiments.base]\n[search]\nhead_regularisation = { from = 0.001, to = 0.1, log = true }\n"
    )
    for trials in (1, 2):
        file.write_text(file.read_text().replace("trials = 1\n", f"trials = {trials}\n"))
        done = succeeded(type_command(tmp_path, file, "--search"))
        table = pd.read_csv(tmp_path / "runs" / "tried" / "search.csv").set_index("experiment")
        assert set(table.index) == {"base", *[f"search_{number:03}" for number in range(trials)]}
        assert np.isfinite(table["log_loss"]).all()
    assert "best: " in done.stdout


def test_the_example_of_the_docstring_is_read(tmp_path: Path) -> None:
    text = (experiments.__doc__ or "").split("FILE.toml:", 1)[1].split("A setting is", 1)[0]
    plan = plan_of("\n".join(line.strip() for line in text.splitlines()), tmp_path)
    assert (plan.reference, plan.folds, plan.seeds, plan.trials) == ("default", [0, 1], [0], 20)
    assert plan.experiments["more_dropout"].settings == {"batch_size": 16, "dropout": 0.7}
    assert plan.experiments["features"].is_classifier
    assert set(plan.search) == {"learning_rate", "schedule"}
    words = ["--run", "tried", "--weights", "none", "--deterministic", "no"]
    arguments = make_parser().parse_args([str(tmp_path / "file.toml"), *words])
    runs = [work_of(arguments, plan.experiments["more_dropout"], seed) for seed in (0, 1)]
    assert [(run.model_name, run.seed) for run in runs] == [("more_dropout", 0), ("more_dropout_seed1", 1)]
    assert [run.deterministic for run in runs] == ["no", "no"]


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_the_files_that_come_along_are_right(file: Path) -> None:
    plan = read_plan(file)
    assert len(plan.experiments) > 2
    for words in ([], ["--weights", "none"], ["--weights", "none", "--quick"]):
        arguments = make_parser().parse_args([str(file), "--run", "tried", *words])
        for experiment in plan.experiments.values():
            try:
                work_of(arguments, experiment, 0)
            except NoEffectError:  # random weights change defaults, so that one is left out of the list
                assert words


WRONG = {
    "not TOML": ("architecture = ", "Expected TOML"),
    "nothing in it": (HEAD, "it has no [experiments.NAME]"),
    "unknown setting": (HEAD + "[experiments.a]\ndroput = 0.1", "'droput'. Did you mean dropout"),
    "unknown architecture": ('architecture = "vgg61"\n[experiments.a]', "Did you mean"),
    "unknown key": (HEAD + "fold = [0]\n[experiments.a]", "unknown key 'fold'. Did you mean folds"),
    "a key of the wrong type": (HEAD + 'folds = "0"\n[experiments.a]', "expected a list"),
    "unknown setting to search": (HEAD + "[experiments.a]\n[search]\ndroput = [0.1]", "setting to search: 'droput'"),
    "a setting of the other kind": (HEAD + '[experiments.a]\nclassifier = "svm"\nepochs = 2', "'epochs'"),
}


@pytest.mark.parametrize("case", sorted(WRONG))
def test_a_wrong_file_is_one_line(case: str, tmp_path: Path) -> None:
    text, message = WRONG[case]
    with pytest.raises(UserError, match=r"file\.toml: ") as caught:
        plan_of(text, tmp_path)
    assert message in str(caught.value)


def test_the_command_line_and_the_values_are_checked_before_any_work(tmp_path: Path) -> None:
    file = tmp_path / "file.toml"
    for text, words, message in (
        ("[experiments.a]", ("--only", "c"), "unknown experiment in --only: 'c'"),
        ("[experiments.a]\ndropout = 2.0", (), "experiment a: argument --dropout: expected 0 to 0.95, found 2.0"),
        ("[experiments.a]\nhidden_units = 64", (), "experiment a: --hidden-units 64 with --head-start logistic"),
        ("[experiments.a]", ("--search",), "expected a [search] with settings"),
    ):
        file.write_text(HEAD + text)
        assert message in refusal(here("tools.experiments", file, *words, "--data", tmp_path))
    (tmp_path / "empty").mkdir()
    file.write_text(HEAD + "[experiments.a]")
    words = ("--weights", tmp_path / "empty", "--data", tmp_path)
    assert "vgg16.weights.h5" in refusal(here("tools.experiments", file, *words))


def test_differences_are_paired_by_image_with_an_error_over_drivers(tmp_path: Path) -> None:
    small = make_small(tmp_path)
    plan = plan_of(HEAD + "[experiments.vgg16]\n[experiments.resnet50]\n[experiments.later]", tmp_path)
    nothing: Any = None
    setup = Setup(nothing, small.run, nothing, small.folds, folds=[0, 1, 2], seeds=[0])
    results = {one: result(setup, one, setup.folds) for one in plan.experiments.values()}
    rows = write_table(tmp_path / "table.csv", results).set_index("experiment")
    assert list(rows.index) == ["resnet50", "vgg16", "later"]
    assert rows["result"].tolist() == ["better", "reference", "not finished"]
    losses, truth = [], small.folds.set_index("img")
    for model in ("resnet50", "vgg16"):
        table = pd.concat(read_predictions(small.fold_folder(model, fold) / "out_of_fold.csv") for fold in range(3))
        labels = truth["classname"].map(CLASSES.index).to_numpy()
        losses.append(log_loss_per_image(table.loc[truth.index].to_numpy(), labels))
    expected = [losses[0].mean(), *paired_difference(*losses, truth["subject"].to_numpy())]
    found = rows.loc["resnet50", ["log_loss", "difference", "difference_error"]]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
