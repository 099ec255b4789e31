"""Pieces against the clock: as processes of their own, each on a device of its own, here pretended ones."""

import os
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from common.environment import LESS_MEMORY
from common.errors import UserError
from models.finetuning.devices import Device
from tools.blendable import blendable
from tools.schedule import RECORD, Clock, Places, Record, work_off
from tools.timetable import Task, kept_for_blend

PRETENDED = (Device("a"), Device("b"))


def script(folder: Path, body: str) -> Callable[[Task], list[str]]:
    """The commands of pieces that do this."""
    path = folder / "piece.py"
    path.write_text("import os, sys, time\nmodel, fold = sys.argv[1:3]\n" + textwrap.dedent(body))
    return lambda task: [sys.executable, str(path), task.model, str(task.fold)]


def tasks(models: str, folds: int, estimate: float = 1.0) -> list[Task]:
    return [Task(model, fold, estimate) for model in models for fold in range(folds)]


def test_every_device_has_one_piece_at_a_time_and_every_piece_its_own_device(tmp_path: Path) -> None:
    own = script(
        tmp_path,
        f"""
        device = os.environ["CUDA_VISIBLE_DEVICES"]
        open(f"{tmp_path}/busy_{{device}}", "x")
        open(f"{tmp_path}/done_{{model}}{{fold}}_{{device}}", "x")
        time.sleep(0.05)
        os.remove(f"{tmp_path}/busy_{{device}}")
        """,
    )
    places = Places(2, PRETENDED)
    ended = work_off(tasks("xyz", 2), own, places, Clock(time.time(), 600), Record(tmp_path, places.kind))
    assert len(ended["finished"]) == 6, "a device that is busy would have failed the piece"
    done = [path.name.split("_") for path in tmp_path.glob("done_*")]
    assert sorted(piece for _, piece, _ in done) == ["x0", "x1", "y0", "y1", "z0", "z1"]
    assert {device for *_, device in done} == {"a", "b"}


def test_where_memory_is_short_fewer_places_are_filled_with_the_same_share_of_the_cores(tmp_path: Path) -> None:
    own = script(
        tmp_path,
        f"""
        open(f"{tmp_path}/busy", "x")
        time.sleep(0.05)
        os.remove(f"{tmp_path}/busy")
        open(f"{tmp_path}/done_{{fold}}", "w").write(os.environ["OMP_NUM_THREADS"])
        """,
    )
    record = Record(tmp_path, "here")
    ended = work_off(tasks("x", 3), own, Places(2), Clock(time.time(), 600), record, limit=1)
    assert len(ended["finished"]) == 3
    assert {row["ended"] for row in record.rows} == {"finished"}, "none met another's file"
    threads = str(max(1, (os.cpu_count() or 1) // 2))
    assert {path.read_text() for path in tmp_path.glob("done_*")} == {threads}


def test_a_failing_piece_keeps_no_other_from_being_made(tmp_path: Path) -> None:
    own = script(tmp_path, "sys.exit(2 if fold == '0' else 0)")
    ended = work_off(tasks("x", 3), own, Places(1), Clock(time.time(), 600), Record(tmp_path, "here"))
    assert [task.fold for task in ended["failed"]] == [0]
    assert [task.fold for task in ended["finished"]] == [1, 2]


def test_what_breaks_off_is_tried_once_more_with_less_memory_and_then_given_up(tmp_path: Path) -> None:
    own = script(
        tmp_path,
        f"""
        open(f"{tmp_path}/tried_{{fold}}", "a").write(os.environ.get("{LESS_MEMORY}", "0"))
        if fold == "0" or fold == "1" and "{LESS_MEMORY}" not in os.environ:
            os.kill(os.getpid(), 9)
        """,
    )
    told: dict[Task, str] = {}
    record = Record(tmp_path, "here")
    ended = work_off(tasks("x", 3), own, Places(1), Clock(time.time(), 600), record, told.__setitem__)
    assert {path.name[-1]: path.read_text() for path in tmp_path.glob("tried_*")} == {"0": "01", "1": "01", "2": "0"}
    assert [task.fold for task in ended["failed"]] == [0]
    assert sorted(task.fold for task in ended["finished"]) == [1, 2]
    ((task, what),) = told.items()
    assert task.fold == 0 and what.count("was killed (signal 9)") == 2
    assert [row["ended"] for row in record.rows if row["fold"] == 1] == ["broken off", "finished"]


def test_a_bug_is_not_retried_and_its_reason_is_shown(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    own = script(tmp_path, f"""open(f"{tmp_path}/tried_{{fold}}", "x")\nraise ValueError""")
    record = Record(tmp_path, "here")
    ended = work_off(
        *(tasks("x", 1), own, Places(1), Clock(time.time(), 600), record), why=lambda task: "failed: ValueError"
    )
    assert len(ended["failed"]) == 1
    assert "failed: ValueError\n" in capfd.readouterr().err


def test_nothing_begins_that_the_measured_rate_leaves_no_time_for(tmp_path: Path) -> None:
    own = script(tmp_path, f"open(f'{tmp_path}/done_{{model}}{{fold}}', 'x')")
    record = Record(tmp_path, "here")
    record.add(Task("slow", 0, 1.0), 10_000.0, "finished")
    record.add(Task("quick", 0, 1.0), 1.0, "finished")
    left = [Task("slow", 1, 1.0), Task("quick", 1, 1.0)]
    ended = work_off(left, own, Places(1), Clock(time.time(), 600), record)
    assert [task.model for task in ended["finished"]] == ["quick"]
    assert [task.model for task in ended["left"]] == ["slow"]
    assert [path.name for path in tmp_path.glob("done_*")] == ["done_quick1"]

    elsewhere = Record(tmp_path, "another machine")  # whose times say nothing of this one's
    ended = work_off(left[:1], own, Places(1), Clock(time.time(), 600), elsewhere)
    assert [task.model for task in ended["finished"]] == ["slow"]


def test_what_still_runs_when_the_time_is_up_is_stopped_and_goes_on_the_next_time(tmp_path: Path) -> None:
    waits = script(tmp_path, f"open(f'{tmp_path}/begun_{{fold}}', 'x')\ntime.sleep(60)")
    budget = 4.0
    clock, record = Clock(time.time(), budget), Record(tmp_path, "here")
    ended = work_off([Task("x", 0, 1.0)], waits, Places(1), clock, record)
    assert [task.fold for task in ended["stopped"]] == [0]
    assert clock.passed < 30
    spent = Record(tmp_path, "here").spent("x", 0)
    assert spent == pytest.approx(budget - kept_for_blend(budget), abs=3)
    assert (tmp_path / RECORD).exists()

    goes_on = script(tmp_path, "")
    again = Task("x", 0, 1.0, begun=True, spent=spent)
    record = Record(tmp_path, "here")
    assert work_off([again], goes_on, Places(1), Clock(time.time(), 60), record)["finished"] == [again]
    assert Record(tmp_path, "here").pace().measured["x"][0] >= spent, "all starts of a piece count"


def test_the_models_to_blend_share_a_fold(tmp_path: Path) -> None:
    def finish(model: str, *folds: int) -> None:
        for fold in folds:
            (tmp_path / model / f"fold_{fold}").mkdir(parents=True)
            (tmp_path / model / f"fold_{fold}" / "finished.json").touch()

    with pytest.raises(UserError, match="nothing to blend yet"):
        blendable(tmp_path, ["a", "b"])
    finish("c", 1)
    assert blendable(tmp_path, ["a", "b", "c"]) == ["c"]
    finish("a", 0, 2)
    finish("b", 0)
    for model in "abc":  # a training on all drivers is judged by nobody
        (tmp_path / model / "fold_all").mkdir()
        (tmp_path / model / "fold_all" / "finished.json").touch()
    assert blendable(tmp_path, ["a", "b", "c"]) == ["a", "b"]
