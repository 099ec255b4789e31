"""The timetable and devices: what starts when, where, and that nothing starts that cannot finish."""

import argparse
import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.competition import COMPLETE_TEST_IMAGES, COMPLETE_TRAIN_IMAGES
from common.errors import UserError
from models.finetuning import architecture as zoo
from models.finetuning.architecture import Kind
from pipeline import resources
from pipeline.jobs import Job
from pipeline.presets import DEFAULT_MODELS
from pipeline.resources import Device, find_devices
from pipeline.schedule import (
    MEASURED_MARGIN,
    SCALED_MARGIN,
    UNMEASURED_MARGIN,
    Deadline,
    Pace,
    clock_time,
    next_job,
    ordered,
    read_budget,
    timetable,
)


def job(model: str, fold: int, seconds: float, resumes: bool = False, spent: float = 0.0) -> Job:
    return Job(model, (fold,), model, Path(), (), (), seconds=seconds, resumes=resumes, spent=spent)


def names(jobs: list[Job]) -> list[str]:
    return [f"{job.model}{job.folds[0]}" for job in jobs]


def grid(estimates: dict[str, float], folds: int) -> list[Job]:
    return [job(model, fold, seconds) for model, seconds in estimates.items() for fold in range(folds)]


def test_breadth_before_depth_the_shortest_first_and_what_resumes_before_all() -> None:
    jobs = [*grid({"slow": 100.0, "fast": 10.0}, 2), job("late", 4, 50.0, resumes=True)]
    assert names(ordered(jobs, Pace())) == ["late4", "fast0", "slow0", "fast1", "slow1"]


def test_what_cannot_finish_is_passed_over_for_what_can() -> None:
    jobs = grid({"slow": 100.0, "fast": 10.0}, 1)
    assert next_job(jobs[:1], Pace(), 100.0 * UNMEASURED_MARGIN - 1) is None
    chosen = next_job([jobs[0], job("fast", 3, 10.0)], Pace(), 50.0)
    assert chosen is not None
    assert (chosen.model, chosen.folds) == ("fast", (3,))


def test_measured_times_replace_estimates_and_correct_those_of_other_models() -> None:
    pace, first, other = Pace(), job("a", 1, 100.0), job("b", 0, 50.0)
    assert pace.seconds(first) == pytest.approx(UNMEASURED_MARGIN * 100)
    pace.add("a", 30.0, 100.0)
    assert pace.seconds(first) == pytest.approx(MEASURED_MARGIN * 30)
    assert pace.seconds(other) == pytest.approx(SCALED_MARGIN * 50 * 0.3)
    assert pace.seconds(job("a", 1, 100.0, True, 15.0)) == pytest.approx(MEASURED_MARGIN * 30 - 15)
    assert pace.seconds(job("a", 1, 100.0, True, 1e9)) > 0


@given(
    estimates=st.dictionaries(st.sampled_from("abcdef"), st.floats(0.1, 1000), min_size=1),
    folds=st.integers(1, 6),
    slots=st.integers(1, 4),
    left=st.floats(0, 5000),
)
def test_nothing_overruns_nothing_overlaps_and_nothing_is_lost(
    estimates: dict[str, float], folds: int, slots: int, left: float
) -> None:
    jobs, pace = grid(estimates, folds), Pace()
    entries, without = timetable(jobs, pace, slots, left)
    assert sorted(names([entry.job for entry in entries] + without)) == sorted(names(jobs))
    assert all(entry.ends <= left + 1e-6 for entry in entries)
    for slot in range(slots):
        own = [entry for entry in entries if entry.slot == slot]
        assert all(one.ends <= two.starts + 1e-9 for one, two in itertools.pairwise(own))
    used = [max([entry.ends for entry in entries if entry.slot == slot], default=0.0) for slot in range(slots)]
    assert all(min(used) + pace.seconds(job) > left for job in without), "there was time for it"


def test_three_networks_and_five_folds_of_the_complete_data_fit_into_a_session_on_kaggle() -> None:
    counts = (COMPLETE_TRAIN_IMAGES, COMPLETE_TEST_IMAGES, 5)
    device = Device("0", "Tesla T4")
    assert device.rate is not None
    estimates = {
        name: resources.job_seconds(zoo.find(name), zoo.find(name).settings_for(Kind(), {})[0], *counts, device.rate)
        for name in DEFAULT_MODELS.split()
    }
    for slots, hours in ((1, 3.5), (2, 2.0)):
        entries, without = timetable(grid(estimates, 5), Pace(), slots, Deadline(0, read_budget("8h30m")).budget * 0.9)
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
    times = {0: "0:00:00", 59.6: "0:01:00", 3_661: "1:01:01", 360_000: "100:00:00"}
    assert {seconds: clock_time(seconds) for seconds in times} == times


def test_devices_are_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATEFARM_DEVICES", "0=T4, 1=NVIDIA L4, 2=NVIDIA L40S, x")
    t4, l4, unknown, pretended = find_devices()
    assert t4.environment() == {"CUDA_VISIBLE_DEVICES": "0"}
    assert (t4.listed, l4.listed, unknown.listed) == ("NvidiaTeslaT4", "NvidiaL4", None)
    assert t4.rate and l4.rate and t4.rate < l4.rate
    assert unknown.rate == t4.rate
    needs = resources.Needs(1, 1, 1, 100.0)
    assert "as if NVIDIA L40S were a T4" in resources.check(needs, Path(), Path(), [l4, unknown])
    assert "as if" not in resources.check(needs, Path(), Path(), [t4, l4])
    assert pretended == Device("x")
    assert pretended.rate is None
    monkeypatch.setenv("STATEFARM_DEVICES", "none")
    assert find_devices() == []
    monkeypatch.setenv("STATEFARM_DEVICES", "0;1")
    with pytest.raises(UserError, match=r"0=T4,1=T4"):
        find_devices()


def driver(folder: Path, monkeypatch: pytest.MonkeyPatch, listing: str) -> Path:
    """A program nvidia-smi that lists these GPUs."""
    command = folder / "nvidia-smi"
    command.write_text(f"#!/bin/sh\nprintf '{listing}'\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.delenv("STATEFARM_DEVICES", raising=False)
    return command


def test_gpus_are_those_that_the_driver_lists_and_the_user_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = driver(tmp_path, monkeypatch, "0, GPU-aa, Tesla T4\\n1, GPU-bb, Tesla T4\\n")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv(resources.FOUND, "mixed_float16")
    assert [device.name for device in find_devices()] == ["0", "1"]
    for visible, found in (("1", ["1"]), ("GPU-bb", ["GPU-bb"]), ("", []), ("-1", [])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert [device.name for device in find_devices()] == found
    assert resources.resolve_precision("auto", [Device("0", "Tesla T4")]) == "mixed_float16"
    assert resources.resolve_precision("float32", [Device("0", "Tesla T4")]) == "float32"
    command.write_text("#!/bin/sh\nexit 9\n")
    assert find_devices() == []


@pytest.mark.slow
def test_a_gpu_that_the_backend_does_not_find_is_reported_once_and_counts_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    driver(tmp_path, monkeypatch, "0, GPU-aa, Tesla P100\\n")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # a driver that is there all the same is not asked
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv(resources.FOUND, "")  # so that what is written there is undone after the test
    monkeypatch.delenv(resources.FOUND)
    for message in ("there is a GPU (Tesla P100), but", ""):
        assert find_devices() == []
        printed = capfd.readouterr().err
        assert message in printed and bool(message) == bool(printed)
