"""Submitting: through Kaggle's client, here a stand-in of the same command line that keeps its list in a file."""

import csv
import dataclasses
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

from common.errors import UserError
from ensemble import blend, submit
from tests.ensemble.conftest import TEST_IMAGES, SmallRun, make_small
from tests.stand_in import install_client
from tests.stand_in_client import FORBIDDEN


@pytest.fixture(scope="module")
def blended(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    """A blended run, that each test has a copy of."""
    made = make_small(tmp_path_factory.mktemp("blended"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["blend", *made.command])
        blend.main()
    return made


@pytest.fixture
def small(blended: SmallRun, tmp_path: Path) -> SmallRun:
    shutil.copytree(blended.root, tmp_path, dirs_exist_ok=True)
    return dataclasses.replace(blended, root=tmp_path)


@pytest.fixture
def machine(small: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine with the stand-in client and a token, and a blended run."""
    install_client("KGAT_0123456789abcdef", tmp_path, monkeypatch)
    monkeypatch.setattr(submit, "COMPLETE_TEST_IMAGES", TEST_IMAGES)
    return monkeypatch


def run_submit(machine: pytest.MonkeyPatch, small: SmallRun, *options: str, interval: float = 0.0) -> None:
    machine.setattr(submit, "ASK_EVERY", interval)
    machine.setattr(sys, "argv", ["submit", small.name, *small.command[2:], *options])
    submit.main()


def board(small: SmallRun) -> pd.DataFrame:
    return pd.read_csv(small.submission.parent / "leaderboard.csv")


def uploads(tmp_path: Path) -> int:
    with (tmp_path / "state" / "submissions.csv").open(newline="") as stream:
        return len(list(csv.reader(stream)))


def test_it_submits_waits_for_the_score_and_writes_it_beside_the_estimate(
    machine: pytest.MonkeyPatch, small: SmallRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    run_submit(machine, small)
    told = capsys.readouterr().out
    assert f"valid, {TEST_IMAGES} images" in told
    assert "expected: log loss about" in told
    assert "9 drivers" in told
    assert "leaderboard: public 0.25, private 0.31; out of fold it was" in told
    (row,) = board(small).to_dict("records")
    assert (row["run"], row["public"], row["private"]) == ("trial", 0.25, 0.31)
    assert 0 < row["out_of_fold"] < 2.4
    assert f"out of fold {row['out_of_fold']:.4f}" in row["message"]

    run_submit(machine, small)
    assert "submitted before" in capsys.readouterr().out
    assert uploads(tmp_path) == 1
    run_submit(machine, small, "--again", "--message", "once more")
    assert uploads(tmp_path) == 2
    assert board(small)["public"].tolist() == [0.25, 0.25]


def test_stopped_while_it_waits_it_goes_on_waiting(
    machine: pytest.MonkeyPatch, small: SmallRun, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="same command again to go on waiting"):
        run_submit(machine, small, "--wait", "0", "--message", "first try", interval=1.0)
    assert board(small)["public"].isna().all()
    run_submit(machine, small)
    assert uploads(tmp_path) == 1
    assert board(small)["public"].tolist() == [0.25]


def test_only_checking_touches_nothing_and_needs_no_credentials(
    machine: pytest.MonkeyPatch, small: SmallRun, tmp_path: Path
) -> None:
    machine.delenv("KAGGLE_API_TOKEN")
    run_submit(machine, small, "--check")
    assert not (tmp_path / "state" / "submissions.csv").exists()
    with pytest.raises(
        UserError, match=r"(?s)no valid credentials.*kaggle auth login.*settings/api.*upload .*trial\.csv in a browser"
    ):
        run_submit(machine, small)
    assert not (small.submission.parent / "leaderboard.csv").exists()


def test_what_kaggle_refuses_is_told_and_not_written_down(machine: pytest.MonkeyPatch, small: SmallRun) -> None:
    failed = "Could not submit to competition"
    for said, message in (
        (FORBIDDEN, r"refuses the submission \(403\), as it does until the rules are accepted"),
        (failed, f"client failed. It said: {failed}"),
    ):
        machine.setenv("STAND_IN_SAYS", said)
        with pytest.raises(UserError, match=message):
            run_submit(machine, small)
    assert not (small.submission.parent / "leaderboard.csv").exists()
    machine.delenv("STAND_IN_SAYS")
    machine.setenv("STAND_IN_RESULT", "SubmissionStatus.ERROR")
    with pytest.raises(UserError, match="could not score the submission"):
        run_submit(machine, small)


def test_another_submission_than_the_blend_wrote_is_told(
    machine: pytest.MonkeyPatch, small: SmallRun, capsys: pytest.CaptureFixture[str]
) -> None:
    text = small.submission.read_text()
    small.submission.write_text(text + "\n")  # another file, though with the same predictions
    run_submit(machine, small, "--check")
    assert "wrote another file than this" in capsys.readouterr().out
    small.submission.write_text("\n".join(text.splitlines()[:-1]) + "\n")
    with pytest.raises(UserError, match="expected exactly the images of the sample submission"):
        run_submit(machine, small)
