"""Rounds of experiments: who is trained, who is judged, and what the table keeps."""

import argparse
import dataclasses
from pathlib import Path

import pandas as pd
import pytest

from tests.tools.test_experiments import finish
from tests.trees import make_tree
from tools import experiment_rounds
from tools.experiment_file import Experiment, read_plan
from tools.experiment_rounds import Bench, run_rounds
from tools.experiments import make_parser

PLAN = """
architecture = "mobilenet"
[[rounds]]
folds = [0]
keep = 0.34
[[rounds]]
[experiments.base]
[experiments.good]
dropout = 0.3
"""
SKILLS = {"base": 1.0, "good": 2.0, "better": 3.0, "smoother": 2.5}


@pytest.fixture
def asked(tmp_path: Path) -> argparse.Namespace:
    """A list on a tiny tree, as the command line says it."""
    make_tree(tmp_path / "data")
    (tmp_path / "file.toml").write_text(PLAN)
    places = ["--data", tmp_path / "data", "--runs", tmp_path / "runs", "--cache", tmp_path / "cache"]
    words = [tmp_path / "file.toml", "--run", "tried", "--folds", "2", "--weights", "none", *places]
    return make_parser().parse_args([str(word) for word in words])


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that a command trains, in order: each predicts with its skill."""
    names: list[str] = []

    def predict(bench: Bench, experiment: Experiment, model: str, seed: int, folds: list[int]) -> bool:
        names.append(model)
        piece = experiment_rounds.piece_of(experiment, bench.arguments, model, seed)
        for fold in folds:
            finish(bench, dataclasses.replace(piece, fold=fold), SKILLS[experiment.name])
        return True

    monkeypatch.setattr(experiment_rounds, "train", predict)
    return names


def table_of(asked: argparse.Namespace) -> pd.DataFrame:
    return pd.read_csv(asked.runs / "tried" / "experiments.csv").set_index(["round", "experiment"])


def test_a_newcomer_that_goes_on_instead_takes_no_finished_row_away(
    asked: argparse.Namespace, trained: list[str]
) -> None:
    run_rounds(read_plan(asked.file), asked, [], 2)
    assert trained == ["base", "good", "base", "good"]
    before = table_of(asked)
    asked.file.write_text(PLAN + "[experiments.better]\ndropout = 0.2\n")
    run_rounds(read_plan(asked.file), asked, [], 2)
    assert trained[4:] == ["better", "better"]
    after = table_of(asked)
    assert not after.loc[("round 1", "good"), "goes_on"]
    numbers = ["images", "log_loss", "difference", "verdict"]
    pd.testing.assert_frame_equal(after.loc[before.index, numbers], before[numbers])
    assert set(after.index) == {*before.index, ("round 1", "better"), ("round 2", "better")}


def test_an_experiment_whose_setting_does_nothing_in_such_a_run_is_left_out_and_told(
    asked: argparse.Namespace, trained: list[str], capsys: pytest.CaptureFixture
) -> None:
    asked.file.write_text(PLAN + "[experiments.smoother]\nhead_regularisation = 0.1\n")
    run_rounds(read_plan(asked.file), asked, [], 1)  # without weights, heads start at random
    assert trained == ["base", "good"]
    told = "smoother is left out: in such a run head regularisation changes nothing, so it would be base."
    assert told in capsys.readouterr().out.splitlines()
