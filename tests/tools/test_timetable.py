"""The timetable: what begins when, and that nothing begins that cannot finish."""

import argparse
import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.competition import COMPLETE_TEST_IMAGES, COMPLETE_TRAIN_IMAGES
from common.errors import UserError
from models.finetuning import architecture as zoo
from models.finetuning import devices, needs
from models.finetuning.devices import Device, find_devices
from models.finetuning.recipe import Kind
from tools.plan import DEFAULT_MODELS
from tools.timetable import (
    MEASURED_MARGIN,
    SCALED_MARGIN,
    UNMEASURED_MARGIN,
    Pace,
    Task,
    clock_time,
    kept_for_blend,
    next_task,
    ordered,
    read_budget,
    timetable,
)


def names(tasks: list[Task]) -> list[str]:
    return [f"{task.model}{task.fold}" for task in tasks]


def grid(estimates: dict[str, float], folds: int) -> list[Task]:
    return [Task(model, fold, seconds) for model, seconds in estimates.items() for fold in range(folds)]


def test_breadth_before_depth_the_shortest_first_and_what_was_begun_before_all() -> None:
    tasks = [*grid({"slow": 100.0, "fast": 10.0}, 2), Task("late", 4, 50.0, begun=True)]
    assert names(ordered(tasks, Pace())) == ["late4", "fast0", "slow0", "fast1", "slow1"]


def test_what_cannot_finish_is_passed_over_for_what_can() -> None:
    tasks = grid({"slow": 100.0, "fast": 10.0}, 1)
    assert next_task(tasks[:1], Pace(), 100.0 * UNMEASURED_MARGIN - 1) is None
    chosen = next_task([tasks[0], Task("fast", 3, 10.0)], Pace(), 50.0)
    assert chosen is not None
    assert (chosen.model, chosen.fold) == ("fast", 3)


def test_measured_times_replace_estimates_and_correct_those_of_other_models() -> None:
    pace, first, other = Pace(), Task("a", 1, 100.0), Task("b", 0, 50.0)
    assert pace.seconds(first) == pytest.approx(UNMEASURED_MARGIN * 100)
    pace.add("a", 30.0, 100.0)
    assert pace.seconds(first) == pytest.approx(MEASURED_MARGIN * 30)
    assert pace.seconds(other) == pytest.approx(SCALED_MARGIN * 50 * 0.3)
    half_done = Task("a", 1, 100.0, begun=True, spent=15.0)
    assert pace.seconds(half_done) == pytest.approx(MEASURED_MARGIN * 30 - 15)
    assert pace.seconds(Task("a", 1, 100.0, begun=True, spent=1e9)) > 0


@given(
    estimates=st.dictionaries(st.sampled_from("abcdef"), st.floats(0.1, 1000), min_size=1),
    folds=st.integers(1, 6),
    places=st.integers(1, 4),
    left=st.floats(0, 5000),
)
def test_nothing_overruns_nothing_overlaps_and_nothing_is_lost(
    estimates: dict[str, float], folds: int, places: int, left: float
) -> None:
    tasks, pace = grid(estimates, folds), Pace()
    entries, without = timetable(tasks, pace, places, left)
    assert sorted(names([entry.task for entry in entries] + without)) == sorted(names(tasks))
    assert all(entry.ends <= left + 1e-6 for entry in entries)
    for place in range(places):
        own = [entry for entry in entries if entry.place == place]
        assert all(one.ends <= two.begins + 1e-9 for one, two in itertools.pairwise(own))
    used = [max([entry.ends for entry in entries if entry.place == place], default=0.0) for place in range(places)]
    assert all(min(used) + pace.seconds(task) > left for task in without), "there was time for it"


def test_three_networks_and_five_folds_of_the_complete_data_fit_into_a_session_on_kaggle() -> None:
    counts = (COMPLETE_TRAIN_IMAGES, COMPLETE_TEST_IMAGES, 5)
    device = Device("0", "Tesla T4")
    assert device.rate is not None
    estimates = {
        name: needs.piece_seconds(zoo.find(name), zoo.find(name).settings_for(Kind(), {})[0], *counts, device.rate)
        for name in DEFAULT_MODELS.split()
    }
    budget = read_budget("8h30m")
    for places, hours in ((1, 3.5), (2, 2.0)):
        entries, without = timetable(grid(estimates, 5), Pace(), places, budget - kept_for_blend(budget))
        assert not without
        assert max(entry.ends for entry in entries) < 3600 * hours


@pytest.mark.parametrize(("text", "seconds"), [("8h30m", 30_600), ("45m", 2_700), ("90s", 90), ("1h1m1s", 3_661)])
def test_a_budget_is_read(text: str, seconds: float) -> None:
    assert read_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "8", "8.5h", "0m", "-1h", "30m8h", "h"])
def test_another_text_is_no_budget(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="such as 8h30m"):
        read_budget(text)


def test_a_time_of_the_clock() -> None:
    assert [clock_time(seconds) for seconds in (0, 59.6, 3_661, 360_000)] == [
        "0:00:00",
        "0:01:00",
        "1:01:01",
        "100:00:00",
    ]


def test_devices_are_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATEFARM_DEVICES", "0=T4, 1=Tesla P100-PCIE-16GB,x")
    t4, p100, pretended = find_devices()
    assert t4.environment() == {"CUDA_VISIBLE_DEVICES": "0"}
    assert t4.rate is not None
    assert p100.rate is not None
    assert p100.rate < t4.rate
    assert pretended == Device("x")
    assert pretended.rate is None
    monkeypatch.setenv("STATEFARM_DEVICES", "none")
    assert find_devices() == []
    monkeypatch.setenv("STATEFARM_DEVICES", "0;1")
    with pytest.raises(UserError, match=r"0=T4,1=T4"):
        find_devices()


def test_gpus_are_those_that_the_driver_lists_and_the_user_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = "0, GPU-aa, Tesla T4\\n1, GPU-bb, Tesla T4\\n"
    command = tmp_path / "nvidia-smi"
    command.write_text(f"#!/bin/sh\nprintf '{listing}'\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("STATEFARM_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("STATEFARM_GPU_USABLE", "yes")
    assert [device.name for device in find_devices()] == ["0", "1"]
    for visible, found in (("1", ["1"]), ("GPU-bb", ["GPU-bb"]), ("", []), ("-1", [])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert [device.name for device in find_devices()] == found
    command.write_text("#!/bin/sh\nexit 9\n")
    assert find_devices() == []


@pytest.mark.slow
def test_a_gpu_that_the_backend_does_not_find_is_told_once_and_counts_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    command = tmp_path / "nvidia-smi"
    command.write_text("#!/bin/sh\necho '0, GPU-aa, Tesla P100'\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # a driver that is there all the same is not asked
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    p100 = Device("0", "Tesla P100")
    monkeypatch.setenv("STATEFARM_GPU_USABLE", "")  # so that what is written there is undone after the test
    monkeypatch.delenv("STATEFARM_GPU_USABLE")
    for told in ("there is a GPU (Tesla P100), but", ""):
        assert not devices._usable(p100)
        err = capfd.readouterr().err
        assert told in err and bool(told) == bool(err)
    monkeypatch.delenv("STATEFARM_DEVICES", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert find_devices() == []
