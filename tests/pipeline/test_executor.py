"""The executor, with real processes that do small things instead of training."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from common import environment
from common.environment import LESS_MEMORY
from common.errors import DIVERGED, OUT_OF_MEMORY, STOPPED, USER_ERROR
from common.run_folder import REPOSITORY, FoldFolder
from pipeline.executor import LocalExecutor, Result
from pipeline.jobs import Deadline, Durations, Job
from pipeline.resources import PART_OF_A_GPU, Device, device_of_slot

TWO = (Device("a"), Device("b"))


@dataclass(frozen=True)
class ScriptJob(Job):
    """A job whose command is a Python text; `model` and `fold` are defined there."""

    body: str = ""

    @property
    def command(self) -> list[str]:
        head = f"import os, signal, sys, time\nmodel, fold = {self.model!r}, {str(self.folds[0])!r}\n"
        return [sys.executable, "-c", head + textwrap.dedent(self.body)]


@pytest.fixture
def jobs(tmp_path: Path) -> Callable[..., list[ScriptJob]]:
    def make(body: str, models: str = "x", folds: int = 3, side_by_side: int = 1, **options: object) -> list[ScriptJob]:
        threads = None if side_by_side == 1 else max(1, environment.cores() // side_by_side)
        found = []
        for model in models:
            for fold in range(folds):
                folder = FoldFolder(tmp_path / "run", model, fold)
                folder.path.mkdir(parents=True, exist_ok=True)
                fixed = (model, (fold,), model, Path(), (), (folder,), side_by_side, threads)
                found.append(ScriptJob(*fixed, body=body.replace("FOLDER", str(tmp_path)), **options))  # type: ignore[arg-type]
        return found

    return make


def executor(folder: Path, devices: tuple[Device, ...] = (), machine_name: str = "here") -> LocalExecutor:
    return LocalExecutor(Durations(folder / "durations.json", machine_name), devices)


def ended(results: list[Result]) -> dict[str, list[int | str]]:
    found: dict[str, list[int | str]] = {}
    for result in results:
        found.setdefault(result.ended, []).append(result.job.folds[0])
    return found


def contents(folder: Path, pattern: str) -> dict[str, str]:
    return {path.name[-1]: path.read_text() for path in folder.glob(pattern)}


def test_each_device_has_one_job_at_a_time_and_each_job_its_own_device(tmp_path: Path, jobs: Callable) -> None:
    work = jobs(
        """
        device = os.environ["CUDA_VISIBLE_DEVICES"]
        open(f"FOLDER/busy_{device}", "x")
        open(f"FOLDER/done_{model}{fold}_{device}", "x")
        time.sleep(0.05)
        os.remove(f"FOLDER/busy_{device}")
        """,
        *("xyz", 2, 2),
        gpu=True,
    )
    results = executor(tmp_path, TWO).run(work, Deadline(time.time(), 600))
    assert len(ended(results)["finished"]) == 6, "a device that is busy would have failed the job"
    done = [path.name.split("_") for path in tmp_path.glob("done_*")]
    assert sorted(job for _, job, _ in done) == ["x0", "x1", "y0", "y1", "z0", "z1"]
    assert {device for *_, device in done} == {"a", "b"}


def test_where_memory_is_short_fewer_jobs_run_at_a_time(
    tmp_path: Path, jobs: Callable, capfd: pytest.CaptureFixture[str]
) -> None:
    body = """
        open("FOLDER/busy", "x")
        time.sleep(0.05)
        os.remove("FOLDER/busy")
        """
    results = executor(tmp_path).run(jobs(body, side_by_side=2, memory=environment.available_memory()))
    assert ended(results) == {"finished": [0, 1, 2]}, "none met another's file"
    assert "memory is short: 1 of 2 folds of x at a time" in capfd.readouterr().err


def test_slots_that_outnumber_the_devices_share_their_memory() -> None:
    alone, shared = device_of_slot(1, 2, TWO), device_of_slot(2, 3, TWO)
    assert alone is not None and shared is not None
    assert alone.environment() == {"CUDA_VISIBLE_DEVICES": "b"}
    assert shared.environment() == {"CUDA_VISIBLE_DEVICES": "a"} | PART_OF_A_GPU
    assert device_of_slot(0, 2, ()) is None


@pytest.mark.parametrize("side_by_side", [1, 2])
@pytest.mark.parametrize(
    ("ending", "tries"),
    [
        *((f"sys.exit({DIVERGED})", 1), ("sys.exit(1)", 1), ("raise ValueError('a bug')", 1)),
        *((f"sys.exit({OUT_OF_MEMORY})", 2), ("os.kill(os.getpid(), signal.SIGKILL)", 2)),
        ("os.kill(os.getpid(), signal.SIGSEGV)", 2),
    ],
)
def test_only_what_was_killed_or_ran_out_of_memory_is_retried_and_the_others_go_on(
    tmp_path: Path, jobs: Callable, side_by_side: int, ending: str, tries: int, capfd: pytest.CaptureFixture[str]
) -> None:
    body = f"""
        open(f"FOLDER/tried_{{fold}}", "a").write(os.environ.get("{LESS_MEMORY}", "0"))
        if fold == "1":
            {ending}
        """
    work = jobs(body, folds=4, side_by_side=side_by_side)
    results = executor(tmp_path).run(work)
    assert contents(tmp_path, "tried_*") == {"0": "0", "1": "01"[:tries], "2": "0", "3": "0"}
    assert {key: sorted(value) for key, value in ended(results).items()} == {"failed": [1], "finished": [0, 2, 3]}
    assert bool(work[1].outputs[0].failure()) and not work[0].outputs[0].failure()
    printed = capfd.readouterr().err
    assert ("killed (signal 9)" in printed) == ("SIGKILL" in ending)
    assert ("less memory" in printed) == (tries == 2)
    assert ("exited with status 1, see above" in printed) == (ending in ("sys.exit(1)", "raise ValueError('a bug')"))


@pytest.mark.parametrize("side_by_side", [1, 2])
@pytest.mark.parametrize("status", [USER_ERROR, STOPPED])
def test_after_a_user_s_mistake_or_an_interrupt_no_other_job_starts(
    tmp_path: Path, jobs: Callable, side_by_side: int, status: int
) -> None:
    body = f"""
        open(f"FOLDER/started_{{fold}}", "w").write(str(os.getpid()))
        if fold == "0":
            sys.exit({status})
        first = "FOLDER/started_0"
        while not os.path.exists(first) or not open(first).read() or os.path.exists("/proc/" + open(first).read()):
            time.sleep(0.01)  # until the end of the first was noticed
        """
    results = executor(tmp_path).run(jobs(body, folds=4, side_by_side=side_by_side))
    started = [0, 1][:side_by_side]
    assert sorted(map(int, contents(tmp_path, "started_*"))) == started
    assert [result.status for result in results if result.job.folds == (0,)] == [status]
    assert ended(results)["waiting"] == [fold for fold in range(4) if fold not in started]


def test_nothing_starts_that_the_measured_pace_leaves_no_time_for(tmp_path: Path, jobs: Callable) -> None:
    one = executor(tmp_path)
    slow, quick = jobs("open(f'FOLDER/done_{model}', 'x')", "sq", 1, seconds=1.0)
    one.durations.add(slow, 10_000.0, "finished")
    one.durations.add(quick, 1.0, "finished")
    results = one.run([slow, quick], Deadline(time.time(), 600))
    assert {result.job.model: result.ended for result in results} == {"q": "finished", "s": "waiting"}
    assert list(contents(tmp_path, "done_*")) == ["q"]
    elsewhere = executor(tmp_path, machine_name="another machine")  # whose times say nothing about this one's
    assert ended(elsewhere.run([slow], Deadline(time.time(), 600))) == {"finished": [0]}


def test_what_still_runs_when_the_time_is_up_is_stopped_and_resumes(tmp_path: Path, jobs: Callable) -> None:
    deadline = Deadline(time.time(), 3.0)
    results = executor(tmp_path).run(jobs("time.sleep(60)", folds=1, seconds=0.1), deadline)
    assert ended(results) == {"stopped": [0]}
    assert deadline.passed < 30
    again = jobs("", folds=1, resumes=True)
    assert ended(executor(tmp_path).run(again, Deadline(time.time(), 60))) == {"finished": [0]}
    rows = Durations(tmp_path / "durations.json", "here").rows
    assert [row["ended"] for row in rows] == ["stopped", "finished"]


@pytest.mark.parametrize("deaf", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_stops_it_stops_its_jobs(tmp_path: Path, deaf: bool, number: int) -> None:
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN); " if deaf else ""  # as one in the middle of a long step
    body = f"{ignore}open(f'{tmp_path}/pid_{{fold}}', 'w').write(str(os.getpid())); time.sleep(60)"
    code = f"""
        import signal
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
        from pathlib import Path
        from common.errors import run_command
        from tests.pipeline.test_executor import ScriptJob, executor
        jobs = [ScriptJob("x", (fold,), "x", Path(), (), (), 2, body={body!r}) for fold in range(2)]
        run_command(lambda: executor(Path({str(tmp_path)!r})).run(jobs))
        """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    parent = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while sum(path.stat().st_size > 0 for path in tmp_path.glob("pid_*")) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    parent.send_signal(number)
    _, printed = parent.communicate(timeout=30)  # half of what the jobs would sleep
    assert parent.returncode == STOPPED
    assert printed.count(b"The same command goes on from here") == 1
    pids = list(tmp_path.glob("pid_*"))
    assert len(pids) == 2
    for path in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text()), 0)
