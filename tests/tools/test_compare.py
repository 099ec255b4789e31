"""The comparison of runs: which is better, by how much, and whether that may be chance."""

import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common.competition import CLASSES
from common.errors import UserError
from common.metric import log_loss
from common.tables import write_predictions
from tests.commands import here
from tests.fold_runs import finish_fold
from tools import comparison

DRIVERS, IMAGES = 6, 20  # of each driver


def make_run(folder: Path, skill: float, seed: int = 0, folds: int = 3, epochs: int = 3, **changes: object) -> Path:
    """A run of one model, `vgg16`, whose predictions lean to the truth by `skill`."""
    random = np.random.default_rng(5)
    labels = random.integers(0, 10, DRIVERS * IMAGES)
    rows = [
        (f"img_{n}.jpg", f"p{n // IMAGES:03}", CLASSES[label], n // IMAGES % folds) for n, label in enumerate(labels)
    ]
    table = pd.DataFrame(rows, columns=["img", "subject", "classname", "fold"])
    folder.mkdir(parents=True)
    table.to_csv(folder / "folds.csv", index=False)
    for fold in range(folds):
        own = folder / "vgg16" / f"fold_{fold}"
        own.mkdir(parents=True)
        part = table[table["fold"] == fold]
        logits = np.random.default_rng([seed, fold]).normal(size=(len(part), 10))
        logits[np.arange(len(part)), part["classname"].map(CLASSES.index)] += skill
        probabilities = np.exp(logits)
        write_predictions(own / "out_of_fold.csv", part["img"], probabilities / probabilities.sum(1, keepdims=True))
        trained_with = {"architecture": "vgg16", "fold": fold, "learning_rate": 1e-5, "epochs": epochs} | changes
        history = pd.DataFrame({"epoch": range(1, epochs + 1), "training_loss": 2.0, "held_out_log_loss": 1.9})
        history.to_csv(own / "history.csv", index=False)
        finish_fold(folder, "vgg16", fold, trained_with, {"seconds": 10.0 * (fold + 1)})
    return folder


def compare(*words: object) -> subprocess.CompletedProcess:
    return here("tools.compare", *words)


def test_the_command_prints_the_best_run_first_and_writes_the_table(tmp_path: Path) -> None:
    poor = make_run(tmp_path / "runs" / "poor", 0.5, learning_rate=1e-2)
    good = make_run(tmp_path / "runs" / "good", 3.0)
    (tmp_path / "runs" / "notes.txt").write_text("as runs/* may find it")
    out = tmp_path / "table.csv"
    told = compare(poor, good, tmp_path / "runs" / "notes.txt", "--out", out)
    assert told.returncode == 0, told.stderr
    lines = told.stdout.splitlines()
    assert lines[1].startswith("good/vgg16")
    assert lines[1].endswith("learning_rate 1e-05")
    assert lines[2].startswith("poor/vgg16")
    assert lines[2].endswith("learning_rate 0.01")
    table = pd.read_csv(out)
    assert table["run"].tolist() == ["good", "poor"]
    assert table["seconds_a_fold"].tolist() == [20.0, 20.0]
    assert "epochs" not in table, "what all have in common is left out"
    assert table["behind"][1] == pytest.approx(table["log_loss"][1] - table["log_loss"][0], abs=1e-5)


def test_the_loss_is_the_metric_over_all_finished_folds(tmp_path: Path) -> None:
    run = make_run(tmp_path / "one", 1.0)
    (run / "vgg16" / "fold_2" / "finished.json").unlink()
    (row,) = comparison.read_rows([run])
    assert (row.folds, row.of, len(row.losses)) == (2, 3, DRIVERS * IMAGES * 2 // 3)
    folds = pd.read_csv(run / "folds.csv").set_index("img")
    tables = pd.concat([pd.read_csv(run / "vgg16" / f"fold_{k}" / "out_of_fold.csv", index_col="img") for k in (0, 1)])
    labels = folds.loc[tables.index, "classname"].map(CLASSES.index).to_numpy()
    assert row.log_loss == pytest.approx(log_loss(tables.to_numpy(), labels))


def test_a_blend_is_a_row_too_and_a_run_without_finished_models_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "one", 1.0)
    (run / "ensemble").mkdir()
    tables = [pd.read_csv(path) for path in sorted(run.glob("vgg16/fold_*/out_of_fold.csv"))]
    pd.concat(tables).to_csv(run / "ensemble" / "out_of_fold.csv", index=False)
    (tmp_path / "empty").mkdir()
    rows = comparison.read_rows([run, tmp_path / "empty"])
    assert [row.name for row in rows] == ["one/vgg16", "one/ensemble"]
    assert rows[0].log_loss == pytest.approx(rows[1].log_loss)
    assert "left out" in capsys.readouterr().out
    text = comparison.as_text(comparison.make_table(rows))
    assert "+0.000" in text


def test_runs_that_were_judged_on_other_images_are_remarked(tmp_path: Path) -> None:
    run, part = make_run(tmp_path / "one", 1.0), make_run(tmp_path / "two", 1.0, folds_sha256="other")
    (part / "vgg16" / "fold_0" / "finished.json").unlink()
    remarks = comparison.remarks(comparison.read_rows([run, part]))
    assert any("same images" in remark for remark in remarks)
    assert any("other folds" in remark for remark in remarks)


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    told = compare(tmp_path / "nothing")
    assert told.returncode == 2
    assert told.stderr.startswith("error: ")
    assert "no such run" in told.stderr
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no finished model"):
        comparison.read_rows([tmp_path / "empty"])
    run = make_run(tmp_path / "one", 1.0)
    told = compare(run, "--out", tmp_path / "table.csv", "--html", tmp_path / "page.html")
    assert (told.returncode, told.stderr.count("\n")) == (2, 1)
    assert "expected a blend" in told.stderr
