"""Submitting: through Kaggle's client, here a stand-in of the same command line that keeps its list in a file."""

import re
from pathlib import Path
from subprocess import CompletedProcess

import pandas as pd
import pytest

from ensemble import submit
from tests.commands import here
from tests.ensemble.conftest import TEST_IMAGES, SmallRun, make_small
from tests.stand_in import install_client
from tests.stand_in_client import FORBIDDEN

Machine = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def blended(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    """A blended run, that each test has a copy of."""
    made = make_small(tmp_path_factory.mktemp("blended"))
    assert here("ensemble.blend", *made.command).returncode == 0
    return made


@pytest.fixture
def small(blended: SmallRun, tmp_path: Path) -> SmallRun:
    return blended.moved(tmp_path)


@pytest.fixture
def machine(small: SmallRun, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine with the stand-in client and a token, and a blended run."""
    install_client("KGAT_0123456789abcdef", small.root, monkeypatch)
    monkeypatch.setattr(submit, "ASK_EVERY", 0.0)
    monkeypatch.setattr(submit, "COMPLETE_TEST_IMAGES", TEST_IMAGES)
    return monkeypatch


def run_submit(small: SmallRun, *options: str) -> CompletedProcess[str]:
    return here("ensemble.submit", small.name, *small.command[2:], *options)


def board(small: SmallRun) -> pd.DataFrame:
    return pd.read_csv(small.submission.parent / "leaderboard.csv")


def uploads(small: SmallRun) -> int:
    return len(pd.read_csv(small.root / "state" / "submissions.csv", header=None))


def test_it_submits_waits_for_the_score_and_writes_it_beside_the_estimate(small: SmallRun, machine: Machine) -> None:
    told = run_submit(small).stdout
    assert f"valid, {TEST_IMAGES} images" in told
    assert "expected: log loss about" in told
    assert "9 drivers" in told
    assert "leaderboard: public 0.25, private 0.31; out of fold it was" in told
    (row,) = board(small).to_dict("records")
    assert (row["run"], row["public"], row["private"]) == ("trial", 0.25, 0.31)
    assert 0 < row["out_of_fold"] < 2.4
    assert f"out of fold {row['out_of_fold']:.4f}" in row["message"]

    assert "submitted before" in run_submit(small).stdout
    assert uploads(small) == 1
    run_submit(small, "--again", "--message", "once more")
    assert uploads(small) == 2
    assert board(small)["public"].tolist() == [0.25, 0.25]


def test_stopped_while_it_waits_it_goes_on_waiting(small: SmallRun, machine: Machine) -> None:
    machine.setattr(submit, "ASK_EVERY", 1.0)
    stopped = run_submit(small, "--wait", "0", "--message", "first try")
    assert (stopped.returncode, "same command again to go on waiting" in stopped.stderr) == (2, True), stopped
    assert board(small)["public"].isna().all()
    run_submit(small)
    assert uploads(small) == 1
    assert board(small)["public"].tolist() == [0.25]


def test_only_checking_touches_nothing_and_needs_no_credentials(small: SmallRun, machine: Machine) -> None:
    machine.delenv("KAGGLE_API_TOKEN")
    assert run_submit(small, "--check").returncode == 0
    assert not (small.root / "state" / "submissions.csv").exists()
    steps = r"(?s)Authentication required.*kaggle auth login.*settings/api.*upload .*trial\.csv in a browser"
    assert re.search(steps, run_submit(small).stderr)
    assert not (small.submission.parent / "leaderboard.csv").exists()


def test_what_kaggle_refuses_is_told_and_not_written_down(small: SmallRun, machine: Machine) -> None:
    machine.setenv("STAND_IN_SAYS", FORBIDDEN)
    refused = run_submit(small)
    assert (refused.returncode, "You don't have access to this resource" in refused.stderr) == (2, True), refused
    assert not (small.submission.parent / "leaderboard.csv").exists()
    machine.delenv("STAND_IN_SAYS")
    machine.setenv("STAND_IN_RESULT", "SubmissionStatus.ERROR")
    assert "could not score the submission" in run_submit(small).stderr


def test_another_submission_than_the_blend_wrote_is_told(small: SmallRun, machine: Machine) -> None:
    text = small.submission.read_text()
    small.submission.write_text(text + "\n")  # another file, though with the same predictions
    assert "wrote another file than this" in run_submit(small, "--check").stdout
    small.submission.write_text("\n".join(text.splitlines()[:-1]) + "\n")
    assert "expected exactly the images of the sample submission" in run_submit(small).stderr
