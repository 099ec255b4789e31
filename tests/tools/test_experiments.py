"""Lists of experiments: what the file may say, the ranking, who goes on, and the whole path on a tiny tree."""

import argparse
import dataclasses
import importlib.util
import json
import math
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.competition import CLASSES
from common.errors import UserError
from common.metric import log_loss, log_loss_per_image
from common.run_folder import REPOSITORY
from common.settings import ImageSize
from common.tables import write_predictions
from ensemble.paired import paired_difference
from models.finetuning.network import weights
from models.finetuning.piece import Piece, begin, leave_out
from tests.tools.conftest import run_python
from tests.trees import make_tree
from tools import experiment_file, experiment_rounds, experiment_search
from tools.experiment_file import Experiment, Plan, Range, read_plan
from tools.experiment_results import Result, as_text, judge, results_of, survivors, write_table
from tools.experiment_rounds import Bench
from tools.experiments import make_parser

FILES = sorted((REPOSITORY / "docs" / "experiments").glob("*.toml"))
DRIVERS, EACH, FOLDS = 6, 20, 3


def plan_of(text: str, folder: Path) -> Plan:
    (folder / "file.toml").write_text(text)
    return read_plan(folder / "file.toml")


def test_the_example_of_the_docstring_says_what_it_says(tmp_path: Path) -> None:
    text = (experiment_file.__doc__ or "").split("TOML.", 1)[1].split("A setting is", 1)[0]
    plan = plan_of("\n".join(line.strip() for line in text.splitlines()), tmp_path)
    assert plan.reference == "default"
    assert list(plan.experiments) == ["default", "more_dropout", "most_dropout"]
    assert dict(plan.experiments["most_dropout"].settings) == {"batch_size": 16, "dropout": 0.8}
    first, second = plan.rounds
    assert (first.folds, first.seeds, first.keep, first.margin) == ((0, 1), (0,), 0.5, 1.0)
    assert (second.folds, second.keep) == ((), 1.0)
    changed = plan.experiments["more_dropout"].under(first.settings)
    assert changed.settings == {"batch_size": 16, "dropout": 0.7, "image_size": ImageSize(120, 160), "epochs": 2}
    assert plan.search is not None
    assert plan.search.space == {
        "learning_rate": Range(1e-5, 1e-4, True, False),
        "schedule": ("cosine", "constant"),
    }


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_the_files_that_come_along_are_right(file: Path) -> None:
    plan = read_plan(file)
    assert plan.rounds
    assert len(plan.experiments) > 5
    for words in ([], ["--weights", "none"], ["--weights", "none", "--quick"]):
        arguments = make_parser().parse_args([str(file), "--run", "tried", *words])
        for experiment in plan.experiments.values():
            for one in plan.rounds:
                experiment_rounds.piece_of(experiment.under(one.settings), arguments, experiment.name, 0)


def test_a_round_wins_over_the_settings_of_all_and_an_experiment_over_its_round(tmp_path: Path) -> None:
    text = "settings = { epochs = 4, dropout = 0.1 }\n[experiments.a]\n[experiments.b]\nepochs = 9\n"
    plan = plan_of(HEAD + text + "[[rounds]]\nsettings = { epochs = 1 }", tmp_path)
    under = {name: one.under(plan.rounds[0].settings).settings for name, one in plan.experiments.items()}
    assert under == {"a": {"epochs": 1, "dropout": 0.1}, "b": {"epochs": 9, "dropout": 0.1}}


HEAD = 'architecture = "vgg16"\n'
WRONG = {
    "not TOML": ("architecture = ", "Expected TOML"),
    "nothing in it": (HEAD, "it has no"),
    "unknown setting": (HEAD + "[experiments.a]\ndroput = 0.1", "unknown setting 'droput'. Did you mean dropout"),
    "value out of range": (HEAD + "[experiments.a]\ndropout = 2.0", "experiment a: dropout=2.0: expected 0 to 0.95"),
    "wrong type": (HEAD + '[experiments.a]\nema = "high"', "expected a number"),
    "wrong type in a round": (HEAD + "[experiments.a]\n[[rounds]]\nsettings = { epochs = 0.5 }", "whole number"),
    "unknown architecture": ('architecture = "vgg61"\n[experiments.a]', "Did you mean"),
    "no architecture": ("[experiments.a]", "no architecture"),
    "no such reference": (HEAD + 'reference = "b"\n[experiments.a]', "reference 'b' is not there"),
    "unknown key": (HEAD + "[experiments.a]\n[[rounds]]\nfold = [0]", "unknown key 'fold'. Did you mean folds"),
    "folds of no number": (HEAD + "[experiments.a]\n[[rounds]]\nfolds = [-1]", "expected whole numbers"),
    "a share beyond 1": (HEAD + "[experiments.a]\n[[rounds]]\nkeep = 2", "expected a share"),
    "like nobody": (HEAD + '[experiments.a]\nlike = "c"', "'c' is not there"),
    "like itself": (HEAD + '[experiments.a]\nlike = "b"\n[experiments.b]\nlike = "a"', "leads back to itself"),
    "a name that is no folder": (HEAD + '[experiments."a/b"]', "expected letters"),
    "an empty space": (HEAD + "[experiments.a]\n[search]\ntrials = 2", "names no setting"),
    "a range the wrong way": (
        HEAD + "[experiments.a]\n[search]\nspace.dropout = { from = 0.5, to = 0.1 }",
        "from the smaller one",
    ),
    "zero in log space": (
        HEAD + "[experiments.a]\n[search]\nspace.weight_decay = { from = 0.0, to = 0.1, log = true }",
        "expected a number above 0",
    ),
    "a range of words": (
        HEAD + '[experiments.a]\n[search]\nspace.schedule = { from = "cosine", to = "step" }',
        "expected two numbers",
    ),
    "a setting of the other kind": (
        HEAD + '[experiments.a]\nclassifier = "svm"\nepochs = 2',
        "All: python models/bottleneck.py --help",
    ),
}


@pytest.mark.parametrize("case", sorted(WRONG))
def test_a_wrong_file_is_one_line(case: str, tmp_path: Path) -> None:
    text, message = WRONG[case]
    with pytest.raises(UserError, match=r"file\.toml: ") as caught:
        plan_of(text, tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value) or case == "not TOML"


@pytest.fixture
def images() -> pd.DataFrame:
    labels = np.random.default_rng(5).integers(0, 10, DRIVERS * EACH)
    rows = [(f"img_{n}.jpg", f"p{n // EACH:03}", CLASSES[k], n // EACH % FOLDS) for n, k in enumerate(labels)]
    return pd.DataFrame(rows, columns=["img", "subject", "classname", "fold"])


def write_model(
    run: Path, name: str, images: pd.DataFrame, skill: float, seed: int = 0, folds: Sequence[int] = range(FOLDS)
) -> np.ndarray:
    """A model's finished pieces, whose predictions lean to the truth by `skill`; its losses in `images`'s order."""
    labels = images["classname"].map(CLASSES.index).to_numpy()
    logits = np.random.default_rng(seed).normal(size=(len(images), 10))
    logits[np.arange(len(images)), labels] += skill
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for fold in folds:
        folder, part = run / name / f"fold_{fold}", (images["fold"] == fold).to_numpy()
        folder.mkdir(parents=True, exist_ok=True)
        write_predictions(folder / "out_of_fold.csv", images["img"][part][::-1].tolist(), probabilities[part][::-1])
        (folder / "finished.json").write_text(json.dumps({"seconds": 10.0 * (fold + 1)}))
    return log_loss_per_image(probabilities, labels)


def test_the_ranking_has_paired_differences_over_drivers(tmp_path: Path, images: pd.DataFrame) -> None:
    losses = {name: write_model(tmp_path, name, images, skill) for name, skill in (("a", 1.0), ("b", 3.0), ("c", 1.0))}
    other = write_model(tmp_path, "b.seed1", images, 3.0, seed=1)
    judged = {name: judge(tmp_path, [name], images) for name in "ac"} | {"b": judge(tmp_path, ["b", "b.seed1"], images)}
    rows = results_of("round 1", judged, "a", images, 1, dict.fromkeys("abc", "words"))
    assert [row.experiment for row in rows] == ["b", "a", "c"]
    b, a, c = rows
    mean = (losses["b"] + other) / 2
    expected = paired_difference(mean, losses["a"], images["subject"].to_numpy())
    assert (b.difference, b.difference_error) == pytest.approx(expected, abs=1e-6)
    assert b.log_loss == pytest.approx(mean.mean(), abs=1e-6)
    assert (b.verdict, a.verdict, c.verdict) == ("better", "reference", "no difference")
    assert math.isnan(a.difference)
    assert b.seconds_a_fold == 20.0
    assert (b.folds, b.images, b.drivers) == (FOLDS, DRIVERS * EACH, DRIVERS)
    write_table(tmp_path / "experiments.csv", rows)
    table = pd.read_csv(tmp_path / "experiments.csv")
    assert table["experiment"].tolist() == ["b", "a", "c"]
    assert "better" in as_text(rows)


def test_what_is_not_finished_has_no_score_and_other_images_are_refused(tmp_path: Path, images: pd.DataFrame) -> None:
    write_model(tmp_path, "a", images, 1.0)
    first = images[images["fold"] == 0].reset_index(drop=True)
    (tmp_path / "a" / "fold_2" / "finished.json").unlink()
    assert judge(tmp_path, ["a"], images) is None
    found = judge(tmp_path, ["a"], first)
    assert found is not None
    table = pd.read_csv(tmp_path / "a" / "fold_0" / "out_of_fold.csv", index_col="img").loc[first["img"]]
    assert found.log_loss == pytest.approx(log_loss(table.to_numpy(), first["classname"].map(CLASSES.index)))
    rows = results_of("round 1", {"a": None, "b": None}, "a", images, 1, {"a": "", "b": ""}, {"b": "failed"})
    assert [row.verdict for row in rows] == ["not finished", "failed"]
    assert survivors(rows, 1.0, 1.0) == []
    with pytest.raises(UserError, match=r"expected the images of fold 1"):
        judge(tmp_path, ["a"], images.drop(index=images.index[images["fold"] == 1][0]))


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=9), st.floats(0, 1), st.floats(0, 3))
def test_who_goes_on_is_near_or_better_and_never_more_than_the_share(
    hundredths: list[int], keep: float, margin: float
) -> None:
    bare, differences = Result("r", "reference", 2, 1, 100, 6), [number / 100 for number in hundredths]
    rows = [dataclasses.replace(bare, log_loss=1.0, verdict="reference")]
    for number, difference in enumerate(differences):
        row = dataclasses.replace(bare, experiment=f"e{number}", log_loss=1 + difference, verdict="judged")
        rows.append(dataclasses.replace(row, difference=difference, difference_error=0.1))
    rows.sort(key=lambda row: row.log_loss)
    going = survivors(rows, keep, margin)
    assert going[0] == "reference"
    assert len(going) - 1 <= math.ceil(keep * len(differences))
    for row in rows:
        if row.experiment in going[1:]:
            assert row.difference <= margin * 0.1
            better = [other for other in rows if other.difference < row.difference]
            assert all(other.experiment in going for other in better)


def test_a_search_without_optuna_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"requirements-search\.txt"):
        experiment_search.check_installed()


def test_a_search_proposes_within_the_space_prunes_and_tells_the_same_twice() -> None:
    space = {"x": Range(1e-5, 1e-1, True, False), "n": Range(2, 5, False, True), "word": ("good", "bad")}

    def explore() -> tuple[dict[str, Any], list[tuple[Any, ...]]]:
        asked: list[tuple[Any, ...]] = []

        def loss(settings: Mapping[str, Any], fold: int) -> float:
            asked.append((*settings.values(), fold))
            if settings["n"] == 5:
                return math.nan
            return abs(math.log10(settings["x"]) + 3) + (settings["word"] == "bad") + 0.01 * fold

        return experiment_search.explore(space, 40, [0, 1], 0, loss), asked

    best, asked = explore()
    assert explore() == (best, asked)
    assert best["word"] == "good"
    assert best["n"] in (2, 3, 4)
    assert 1e-4 < best["x"] < 1e-2
    for x, n, _, _ in asked:
        assert 1e-5 <= x <= 1e-1
        assert n in (2, 3, 4, 5)
        assert float(f"{x:.3g}") == x
    firsts, seconds = (sum(fold == k for *_, fold in asked) for k in (0, 1))
    assert firsts == 40
    assert 4 <= seconds < 35


SEARCH = """
architecture = "mobilenet"
[experiments.base]
[search]
trials = 12
space.dropout = { from = 0.1, to = 0.9 }
"""


@pytest.fixture
def asked(tmp_path: Path) -> argparse.Namespace:
    """A search on a tiny tree, as the command line says it."""
    make_tree(tmp_path / "data")
    (tmp_path / "file.toml").write_text(SEARCH)
    places = ["--data", tmp_path / "data", "--runs", tmp_path / "runs", "--cache", tmp_path / "cache"]
    words = [tmp_path / "file.toml", "--run", "tried", "--folds", "2", "--weights", "none", *places]
    return make_parser().parse_args([str(word) for word in words])


def test_a_search_ranks_its_trials_and_says_which_were_pruned_and_again_is_the_same(
    asked: argparse.Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []

    def predict(bench: Bench, experiment: Experiment, model: str, seed: int, folds: list[int]) -> bool:
        trained.append(model)
        skill = 4 - 10 * abs(experiment.settings.get("dropout", 0.9) - 0.4)
        write_model(bench.run, model, bench.images([]), skill, folds=folds)
        return True

    monkeypatch.setattr(experiment_rounds, "train", predict)
    tables = []
    for _ in range(2):
        experiment_search.search(read_plan(asked.file), asked)
        tables.append(pd.read_csv(asked.runs / "tried" / "search.csv").set_index("experiment"))
    pd.testing.assert_frame_equal(*tables)
    table = tables[0]
    pruned = table["verdict"].str.startswith("pruned at ")
    assert len(table) == 13 and 0 < pruned.sum() <= 8
    assert (table["log_loss"].isna() == pruned).all()
    assert table.loc["search.base", "verdict"] == "reference"
    assert 0.25 < float(table["settings"].iloc[0].split("dropout ")[1]) < 0.55
    assert len(trained) == 2 * (2 * 13 - pruned.sum()), "a pruned trial does not meet the second fold"


def finish(bench: Bench, piece: Piece, skill: float) -> None:
    """Makes a piece a finished one, with all records, that has predicted with this skill."""
    begin(piece, piece.settings(bench.dataset.test), {}, "float32")
    write_model(bench.run, piece.model_name, bench.images([]), skill, folds=[int(piece.fold)])
    sizes = {"out_of_fold.csv": (piece.folder / "out_of_fold.csv").stat().st_size}
    (piece.folder / "finished.json").write_text(json.dumps({"seconds": 1.0, "bytes": sizes}))


def test_a_report_of_a_search_tells_what_ended_from_what_is_not_finished(asked: argparse.Namespace) -> None:
    asked.report = True
    plan = read_plan(asked.file)
    base, bench = plan.experiments["base"], experiment_rounds.open_bench(asked)

    def report() -> pd.DataFrame:
        experiment_search.search(plan, asked)
        return pd.read_csv(bench.run / "search.csv")

    def folds_of(experiment: Experiment, model: str) -> list[Piece]:
        piece = experiment_rounds.piece_of(experiment, asked, model, 0)
        return [dataclasses.replace(piece, fold=fold) for fold in (0, 1)]

    for piece in folds_of(base, "search.base"):
        finish(bench, piece, 1.0)
    table = report()
    assert table["verdict"].tolist() == ["reference", "not finished"]

    trial, words = table["experiment"].iloc[1], table["settings"].iloc[1]
    first, second = folds_of(base.changed({"dropout": float(words.split("dropout ")[1])}), trial)
    finish(bench, first, 0.1)
    assert report()["verdict"].tolist() == ["reference", "not finished"], "stopped in its second fold, not pruned"
    leave_out(second, "was killed twice")
    assert report()["verdict"].tolist() == ["reference", "failed", "not finished"], "the trials after it are told too"


def test_a_search_refuses_pieces_of_other_settings(asked: argparse.Namespace) -> None:
    asked.report = True
    plan = read_plan(asked.file)
    bench = experiment_rounds.open_bench(asked)
    finish(bench, experiment_rounds.piece_of(plan.experiments["base"], asked, "search.base", 0), 1.0)
    asked.file.write_text(SEARCH + "settings = { epochs = 1 }\n")
    with pytest.raises(UserError, match="was made with other settings: epochs was 30, is now 1"):
        experiment_search.search(read_plan(asked.file), asked)


def test_weights_are_needed_only_where_something_is_left_to_train(
    asked: argparse.Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(*_: object) -> None:
        raise UserError("no weights")

    monkeypatch.setattr(weights, "check_available", lacking)
    plan, bench = read_plan(asked.file), experiment_rounds.open_bench(asked)
    piece = experiment_rounds.piece_of(plan.experiments["base"], asked, "base", 0)
    finish(bench, piece, 1.0)
    with pytest.raises(UserError, match="no weights"):
        experiment_rounds.run_rounds(plan, asked, [], 1)
    finish(bench, dataclasses.replace(piece, fold=1), 1.0)
    experiment_rounds.run_rounds(plan, asked, [], 1)
    assert pd.read_csv(bench.run / "experiments.csv")["verdict"].tolist() == ["reference"]


def experiments(folder: Path, file: Path, *words: str) -> subprocess.CompletedProcess:
    places = ["--data", folder / "data", "--runs", folder / "runs", "--cache", folder / "cache", "--weights", "none"]
    return run_python("-m", "tools.experiments", file, "--folds", "2", "--run", "tried", *places, *words, timeout=400)


TINY = """
architecture = "mobilenet"
settings = { image_size = "32x32" }
[[rounds]]
folds = [0]
keep = 0.5
[[rounds]]
[experiments.reference]
head_start = "logistic"
epochs = 0
[experiments.wild]
optimizer = "sgd"
learning_rate = 10.0
clip_norm = 0.0
warmup = 0.0
head_l2 = 10.0
epochs = 9
[experiments.features]
classifier = "logistic"
calibrate = false
regularisation = 10.0
"""


@pytest.mark.slow
def test_the_command_trains_ranks_leaves_out_what_fails_and_goes_on_where_it_was(tmp_path: Path) -> None:
    make_tree(tmp_path / "data")
    file, table = tmp_path / "file.toml", tmp_path / "runs" / "tried" / "experiments.csv"
    file.write_text(TINY)
    told = experiments(tmp_path, file, "--rounds", "1")
    assert told.returncode == 0, told.stderr
    assert set(pd.read_csv(table)["round"]) == {"round 1"}
    told = experiments(tmp_path, file)
    assert told.returncode == 0, told.stderr
    found = pd.read_csv(table)
    assert found[found["round"] == "round 1"].set_index("experiment").loc["wild", "verdict"] == "failed"
    last = found[found["round"] == "round 2"].set_index("experiment")
    assert last.loc["reference", "verdict"] == "reference"
    assert set(last["images"]) == {80}
    assert str(table) in told.stdout.splitlines()[-1]

    told = experiments(tmp_path, file, "--only", "features", "--rounds", "1")
    assert told.returncode == 0 and "wild" not in told.stdout, told.stderr
    assert pd.read_csv(table).equals(found.query("verdict != 'failed'").reset_index(drop=True)), (
        "what is finished stays"
    )

    pieces = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("finished.json")}
    again = experiments(tmp_path, file, "--report")
    assert again.returncode == 0, again.stderr
    assert pd.read_csv(table).equals(found)
    assert pieces == {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("finished.json")}
    file.write_text(TINY.replace("epochs = 0", "epochs = 1"))
    other = experiments(tmp_path, file)
    assert other.returncode == 2
    assert "epochs was 0, is now 1" in other.stderr


def test_the_command_line_is_checked_before_anything_else(tmp_path: Path) -> None:
    file = tmp_path / "file.toml"
    file.write_text(HEAD + "[experiments.a]\n[experiments.b]\nhidden_units = 64")
    told = run_python("-m", "tools.experiments", file, "--only", "c", "--weights", "none")
    assert (told.returncode, "no such experiment" in told.stderr) == (2, True), told.stderr
    told = run_python("-m", "tools.experiments", file, "--rounds", "9", "--weights", "none")
    assert (told.returncode, "--rounds 9" in told.stderr) == (2, True), told.stderr
    told = run_python("-m", "tools.experiments", file, "--only", "b", "--weights", "imagenet", "--run", "x")
    assert "experiment b: --hidden-units 64 with --head-start logistic" in told.stderr
    (tmp_path / "data").mkdir()
    told = run_python(*("-m", "tools.experiments", file, "--only", "a", "--run", "x", "--weights", tmp_path / "data"))
    assert (told.returncode, "weights" in told.stderr, told.stdout) == (2, True, ""), told.stderr
    told = run_python("-m", "tools.experiments", file, "--search", "--rounds", "1", "--weights", "none")
    assert (told.returncode, "--search with --only or --rounds" in told.stderr) == (2, True), told.stderr
    file.write_text(HEAD + "[experiments.a]\n[experiments.b]\nhead_learning_rate = 0.01")
    told = run_python("-m", "tools.experiments", file, "--only", "b", "--weights", "none")
    assert "experiment b: --head-learning-rate with --head-epochs 0: it would change nothing" in told.stderr
