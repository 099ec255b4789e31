"""The timetable and devices: what starts when, where, and that nothing starts that cannot finish."""

import argparse
import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UserError
from pipeline import resources
from pipeline.jobs import (
    MEASURED_MARGIN,
    SCALED_MARGIN,
    UNMEASURED_MARGIN,
    Durations,
    Job,
    clock_time,
    next_job,
    ordered,
    read_budget,
    timetable,
)
from pipeline.resources import Device, find_devices

NOTHING_MEASURED = Durations(Path("/nowhere"), "here")


def job(model: str, fold: int, seconds: float, resumes: bool = False) -> Job:
    return Job(model, (fold,), model, Path(), (), (), seconds=seconds, resumes=resumes)


def names(jobs: list[Job]) -> list[str]:
    return [f"{job.model}{job.folds[0]}" for job in jobs]


def grid(estimates: dict[str, float], folds: int) -> list[Job]:
    return [job(model, fold, seconds) for model, seconds in estimates.items() for fold in range(folds)]


def test_breadth_before_depth_the_shortest_first_what_resumes_before_all_and_only_what_can_finish() -> None:
    jobs = [*grid({"slow": 100.0, "fast": 10.0}, 2), job("late", 4, 50.0, resumes=True)]
    assert names(ordered(jobs, NOTHING_MEASURED)) == ["late4", "fast0", "slow0", "fast1", "slow1"]
    assert next_job(jobs[:1], NOTHING_MEASURED, 100.0 * UNMEASURED_MARGIN - 1) is None
    assert next_job([jobs[0], job("fast", 3, 10.0)], NOTHING_MEASURED, 50.0) == job("fast", 3, 10.0)


def test_measured_times_replace_estimates_and_correct_those_of_other_models(tmp_path: Path) -> None:
    durations, first, other = Durations(tmp_path / "durations.json", "here"), job("a", 1, 100.0), job("b", 0, 50.0)
    assert durations.seconds(first) == pytest.approx(UNMEASURED_MARGIN * 100)
    durations.add(job("a", 0, 100.0), 10.0, "stopped")
    durations.add(job("a", 0, 100.0), 20.0, "finished")
    durations.add(first, 15.0, "crashed")
    for known in (durations, Durations(durations.path, "here")):
        assert known.seconds(first) == pytest.approx(MEASURED_MARGIN * 30), "all starts of a job count"
        assert known.seconds(other) == pytest.approx(SCALED_MARGIN * 50 * 0.3)
        assert known.seconds(job("a", 1, 100.0, resumes=True)) == pytest.approx(MEASURED_MARGIN * 30 - 15)
    durations.add(first, 1e9, "stopped")
    assert durations.seconds(job("a", 1, 100.0, resumes=True)) > 0
    elsewhere = Durations(durations.path, "another machine")
    assert elsewhere.seconds(other) == pytest.approx(UNMEASURED_MARGIN * 50)
    for damage in ("", "{", "[3]", '[{"model": "a"}]', "7"):
        durations.path.write_text(damage)
        assert Durations(durations.path, "here").rows == []


@given(
    estimates=st.dictionaries(st.sampled_from("abcdef"), st.floats(0.1, 1000), min_size=1),
    folds=st.integers(1, 6),
    slots=st.integers(1, 4),
    left=st.floats(0, 5000),
)
def test_nothing_overruns_nothing_overlaps_and_nothing_is_lost(
    estimates: dict[str, float], folds: int, slots: int, left: float
) -> None:
    jobs = grid(estimates, folds)
    entries, without = timetable(jobs, NOTHING_MEASURED, slots, left)
    assert sorted(names([entry.job for entry in entries] + without)) == sorted(names(jobs))
    assert all(entry.ends <= left + 1e-6 for entry in entries)
    for slot in range(slots):
        own = [entry for entry in entries if entry.slot == slot]
        assert all(one.ends <= two.starts + 1e-9 for one, two in itertools.pairwise(own))
    used = [max([entry.ends for entry in entries if entry.slot == slot], default=0.0) for slot in range(slots)]
    assert all(min(used) + NOTHING_MEASURED.seconds(job) > left for job in without), "there was time for it"


def test_a_budget_is_read_and_a_time_written() -> None:
    budgets = {"8h30m": 30_600, "45m": 2_700, "90s": 90, "1h1m1s": 3_661}
    assert {text: read_budget(text) for text in budgets} == budgets
    for text in ("", "8", "8.5h", "0m", "-1h", "30m8h", "h"):
        with pytest.raises(argparse.ArgumentTypeError, match="such as 8h30m"):
            read_budget(text)
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
    assert (pretended, pretended.rate) == (Device("x"), None)
    monkeypatch.setenv("STATEFARM_DEVICES", "none")
    assert find_devices() == []
    monkeypatch.setenv("STATEFARM_DEVICES", "0;1")
    with pytest.raises(UserError, match=r"0=T4,1=T4"):
        find_devices()


def test_gpus_are_those_that_the_driver_lists_the_user_leaves_and_the_backend_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    command = tmp_path / "nvidia-smi"
    command.write_text("#!/bin/sh\nprintf '0, GPU-aa, Tesla T4\\n1, GPU-bb, Tesla T4\\n'\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for name in ("STATEFARM_DEVICES", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(resources, "_gpu_precision", lambda: "mixed_float16")
    resources._is_usable.cache_clear()
    assert [device.name for device in find_devices()] == ["0", "1"]
    for visible, found in (("1", ["1"]), ("GPU-b", ["GPU-b"]), ("MIG-1", ["MIG-1"]), ("", []), ("-1", [])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert [device.name for device in find_devices()] == found
    assert resources.resolve_precision("auto", [Device("0", "Tesla T4")]) == "mixed_float16"
    assert resources.resolve_precision("float32", [Device("0", "Tesla T4")]) == "float32"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(resources, "_gpu_precision", lambda: "none")
    resources._is_usable.cache_clear()
    assert find_devices() == find_devices() == []
    assert capfd.readouterr().err.count("there is a GPU (Tesla T4), but") == 1
    command.write_text("#!/bin/sh\nexit 9\n")
    assert find_devices() == []
