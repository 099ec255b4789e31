"""The comparison of runs: which is better, by how much, and whether that may be chance."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from common.competition import CLASSES
from common.errors import UserError
from common.metric import log_loss
from tests.commands import here, refusal, succeeded
from tests.ensemble.conftest import FOLDS, SmallRun, make_small
from tests.fold_runs import finish_fold
from tools import compare


@pytest.fixture
def small(tmp_path: Path) -> SmallRun:
    """A run with models of unequal skill: resnet50 before vgg16 and inception_v3."""
    run = make_small(tmp_path)
    for model, rate in (("resnet50", 1e-5), ("vgg16", 1e-2), ("inception_v3", 1e-2)):
        for fold in range(FOLDS):
            settings = {"architecture": model, "fold": fold, "learning_rate": rate, "epochs": 3}
            finish_fold(run.run, model, fold, settings, {"seconds": 10.0 * (fold + 1)})
    return run


def test_the_command_prints_the_best_model_first_and_writes_the_table(small: SmallRun, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("as runs/* may find it")
    out = tmp_path / "table.csv"
    told = succeeded(here("tools.compare", small.run, tmp_path / "notes.txt", "--out", out))
    lines = told.stdout.splitlines()
    assert lines[1].startswith("trial/resnet50") and lines[1].endswith("learning_rate 1e-05")
    assert lines[2].startswith("trial/vgg16") and lines[2].endswith("learning_rate 0.01")
    table = pd.read_csv(out)
    assert table["model"].tolist() == ["resnet50", "vgg16", "inception_v3"]
    assert table["seconds_a_fold"].tolist() == [20.0] * 3
    assert "epochs" not in table, "what all have in common is left out"
    assert table["behind"][1] == pytest.approx(table["log_loss"][1] - table["log_loss"][0], abs=1e-5)


def test_the_loss_is_the_metric_over_all_finished_folds(small: SmallRun) -> None:
    (small.run / "resnet50" / "fold_2" / "finished.json").unlink()
    row, other, *_ = compare.read_rows([small.run])
    assert (row.folds, row.of, len(row.losses)) == (2, 3, len(small.folds) * 2 // 3)
    tables = [pd.read_csv(small.fold_folder("resnet50", k) / "out_of_fold.csv", index_col="img") for k in (0, 1)]
    table = pd.concat(tables)
    labels = small.folds.set_index("img").loc[table.index, "classname"].map(CLASSES.index).to_numpy()
    assert row.losses["log_loss"].mean() == pytest.approx(log_loss(table.to_numpy(), labels))
    assert compare.remarks([row, other])[0].startswith("Not all were measured on the same images")


def test_a_blend_is_a_row_too_and_a_run_without_finished_models_is_left_out(
    small: SmallRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (small.run / "ensemble").mkdir()
    tables = [pd.read_csv(path) for path in sorted(small.run.glob("resnet50/fold_*/out_of_fold.csv"))]
    pd.concat(tables).to_csv(small.run / "ensemble" / "out_of_fold.csv", index=False)
    (tmp_path / "empty").mkdir()
    rows = compare.read_rows([small.run, tmp_path / "empty"])
    assert [row.model for row in rows] == ["resnet50", "ensemble", "vgg16", "inception_v3"]
    assert "left out" in capsys.readouterr().out
    assert "+0.000" in compare.as_text(compare.make_table(rows))


def test_bad_input_is_one_line(small: SmallRun, tmp_path: Path) -> None:
    assert "no such run" in refusal(here("tools.compare", tmp_path / "nothing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="none of these holds"):
        compare.read_rows([tmp_path / "empty"])
    other = tmp_path / "other"
    shutil.copytree(small.run, other)
    for fold in range(FOLDS):
        finish_fold(other, "vgg16", fold, {"folds_sha256": "other"})
    assert "The runs have other folds" in compare.remarks(compare.read_rows([small.run, other]))[-1]
    told = here("tools.compare", small.run, "--out", tmp_path / "table.csv", "--html", tmp_path / "page.html")
    assert (told.returncode, told.stderr.count("\n")) == (2, 1)
    assert "expected a blend" in told.stderr
