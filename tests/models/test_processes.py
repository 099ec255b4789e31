"""Folds in processes of their own: all of them run, some at a time; a failing one ends it, and none is left behind."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from common import machine
from common.environment import LESS_MEMORY
from common.errors import OUT_OF_MEMORY, SOME_FAILED
from common.run_folder import REPOSITORY
from models.finetuning import needs
from models.finetuning.devices import PART_OF_A_GPU, Device, device_at
from models.finetuning.processes import LABEL, default_jobs, run_folds


def script(folder: Path, body: str) -> Path:
    path = folder / "network.py"
    path.write_text("import os, signal, sys, time\nfold = sys.argv[-1]\n" + textwrap.dedent(body))
    return path


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_every_fold_runs_once_and_no_more_than_asked_at_a_time(tmp_path: Path, jobs: int) -> None:
    path = script(
        tmp_path,
        f"""
        open(f"{tmp_path}/running_{{fold}}", "x")
        others = [name for name in os.listdir("{tmp_path}") if name.startswith("running_")]
        assert len(others) <= {jobs}, others
        open(f"{tmp_path}/done_{{fold}}", "x").write(os.environ.get("{LABEL}", ""))
        os.remove(f"{tmp_path}/running_{{fold}}")
        """,
    )
    run_folds(path, ["--epochs", "1"], [0, 1, 2, 3], jobs)
    said = {path.name: path.read_text() for path in tmp_path.glob("done_*")}
    assert said == {f"done_{fold}": f"fold {fold} | " if jobs > 1 else "" for fold in range(4)}


def test_two_folds_at_a_time_where_the_machine_has_the_memory_and_small_ones_on_each_core(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STATEFARM_DEVICES", "none")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    group = tmp_path / "sys" / "fs" / "cgroup"
    group.mkdir(parents=True)
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text("0::/\n")
    for limit, jobs, small in ((200, 1, 1), (400, 2, 2), (2000, 2, 5)):  # of a container
        (group / "memory.max").write_text(f"{limit}\n")
        assert default_jobs(quick=False, folds=5, memory=100) == jobs
        assert default_jobs(quick=False, folds=1, memory=100) == 1
        assert default_jobs(quick=True, folds=5, memory=100) == small
    (group / "memory.current").write_text("1700")
    (group / "memory.stat").write_text("file 5\ninactive_file 40\nactive_file 10\n")
    assert needs.at_a_time(5, 100) == 3
    assert needs.at_a_time(5, 1000) == 1


def test_where_memory_is_short_fewer_run_at_a_time_with_the_same_share_of_the_cores(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    body = f"""
        open(f"{tmp_path}/busy", "x")
        time.sleep(0.2)
        os.remove(f"{tmp_path}/busy")
        open(f"{tmp_path}/done_{{fold}}", "w").write(os.environ["OMP_NUM_THREADS"])
        """
    run_folds(script(tmp_path, body), [], [0, 1, 2], 2, limit=1)
    threads = str(max(1, (os.cpu_count() or 1) // 2))
    assert [(tmp_path / f"done_{fold}").read_text() for fold in range(3)] == [threads] * 3
    said = capfd.readouterr().err
    assert "note: memory is short: 1 of 2 folds at a time" in said
    assert "once more" not in said, "none met another's file"


def test_folds_side_by_side_each_have_a_device_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATEFARM_DEVICES", "a,b")
    assert default_jobs(quick=False, folds=5, memory=2**60) == 2
    path = script(
        tmp_path,
        f"""
        device = os.environ["CUDA_VISIBLE_DEVICES"]
        open(f"{tmp_path}/busy_{{device}}", "x")
        open(f"{tmp_path}/done_{{fold}}", "w").write(device)
        os.remove(f"{tmp_path}/busy_{{device}}")
        """,
    )
    run_folds(path, [], [0, 1, 2, 3], 2)
    assert {file.read_text() for file in tmp_path.glob("done_*")} == {"a", "b"}
    assert len(list(tmp_path.glob("done_*"))) == 4


def test_places_that_outnumber_the_devices_share_their_memory() -> None:
    two = (Device("a"), Device("b"))
    alone, shared = device_at(1, 2, two), device_at(2, 3, two)
    assert alone is not None and shared is not None
    assert alone.environment() == {"CUDA_VISIBLE_DEVICES": "b"}
    assert shared.environment() == {"CUDA_VISIBLE_DEVICES": "a"} | PART_OF_A_GPU
    assert device_at(0, 2, ()) is None


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize(
    ("ending", "tries"),
    [
        *(("sys.exit(4)", 1), ("sys.exit(1)", 1), ("raise ValueError('a bug')", 1)),
        *((f"sys.exit({OUT_OF_MEMORY})", 2), ("os.kill(os.getpid(), signal.SIGKILL)", 2)),
        ("os.kill(os.getpid(), signal.SIGSEGV)", 2),
    ],
)
def test_only_what_was_killed_or_ran_out_of_memory_is_retried_and_what_fails_is_left_out(
    tmp_path: Path, jobs: int, ending: str, tries: int, capfd: pytest.CaptureFixture[str]
) -> None:
    body = f"""
        open(f"{tmp_path}/tried_{{fold}}", "a").write(os.environ.get("{LESS_MEMORY}", "0"))
        if fold == "1":
            {ending}
        """
    told: dict[int, str] = {}
    with pytest.raises(SystemExit) as ended:
        run_folds(script(tmp_path, body), [], [1, 2, 3, 4], jobs, told.__setitem__)
    tried = {path.name[-1]: path.read_text() for path in tmp_path.glob("tried_*")}
    assert ended.value.code == SOME_FAILED
    assert tried == {"1": "01"[:tries], "2": "0", "3": "0", "4": "0"}
    assert list(told) == [1]
    said = capfd.readouterr().err
    assert "network lacks fold 1; 3 of 4 folds are finished" in said
    assert ("killed (signal 9)" in said) == ("SIGKILL" in ending)
    assert ("less memory" in said) == (tries == 2)
    of_memory = "SIGKILL" in ending or str(OUT_OF_MEMORY) in ending
    assert ("batch-size" in said) == of_memory, "advised only where memory is the evidence"
    assert ("exited with status 1, see above" in said) == (ending in ("sys.exit(1)", "raise ValueError('a bug')"))


def test_the_reason_that_a_fold_left_is_shown(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    left_out: dict[int | str, str] = {}
    with pytest.raises(SystemExit):
        run_folds(
            *(script(tmp_path, "sys.exit(1)"), [], [1, 2], 1, left_out.__setitem__),
            why=lambda fold: "failed: ValueError: a bug (full traceback: log.txt)" if fold == 1 else "",
        )
    said = capfd.readouterr().err
    assert "error: fold 1 of network failed: ValueError: a bug (full traceback: log.txt)\n" in said
    assert list(left_out) == [2], "the other one has its reason in its folder already"


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("status", [2, 130])
def test_after_a_user_s_mistake_or_an_interrupt_no_other_fold_begins(tmp_path: Path, jobs: int, status: int) -> None:
    body = f"""
        open(f"{tmp_path}/begun_{{fold}}", "w").write(str(os.getpid()))
        if fold == "1":
            sys.exit({status})
        first = pathlib.Path("{tmp_path}/begun_1")
        while not first.exists() or not first.read_text() or os.path.exists("/proc/" + first.read_text()):
            os.sched_yield()  # until the end of the first was noticed
        """
    with pytest.raises(SystemExit) as ended:
        run_folds(script(tmp_path, body), [], [1, 2, 3, 4], jobs)
    assert ended.value.code == status
    assert {path.name for path in tmp_path.glob("begun_*")} == {f"begun_{fold}" for fold in (1, 2)[:jobs]}


def test_the_second_try_may_succeed(tmp_path: Path) -> None:
    body = f"""
        if not os.environ.get("{LESS_MEMORY}"):
            os.kill(os.getpid(), signal.SIGKILL)
        open(f"{tmp_path}/done_{{fold}}", "x").write(" ".join(sys.argv[1:]))
        """
    run_folds(script(tmp_path, body), ["--workers", "8"], [7], 1)
    assert (tmp_path / "done_7").read_text() == "--workers 8 --workers 1 --fold 7"


@pytest.mark.parametrize("deaf", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_who_ends_it_ends_its_folds(tmp_path: Path, deaf: bool) -> None:
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN); " if deaf else ""  # as one in the midst of a long step
    path = script(
        tmp_path, f"""{ignore}open(f"{tmp_path}/pid_{{fold}}", "w").write(str(os.getpid()))\ntime.sleep(60)"""
    )
    code = f"""
        from pathlib import Path
        from models.finetuning.processes import run_folds
        from common.errors import run_command
        run_command(lambda: run_folds(Path({str(path)!r}), [], [0, 1], 2))
        """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], cwd=REPOSITORY, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 20
    while sum(file.stat().st_size > 0 for file in tmp_path.glob("pid_*")) < 2 and time.monotonic() < deadline:
        os.sched_yield()
    parent.send_signal(signal.SIGTERM)
    _, said = parent.communicate(timeout=30)  # half of what the folds would sleep
    assert parent.returncode == 130
    assert b"The same command goes on from here" in said
    for file in tmp_path.glob("pid_*"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(file.read_text()), 0)
