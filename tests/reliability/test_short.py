"""The short modes of the reliability commands, on the same code as the long ones."""

import signal
import subprocess
from pathlib import Path

import pytest

from tests.reliability import full_disk, kills, soak
from tests.reliability.pipeline import MODEL, Place, differing

pytestmark = pytest.mark.slow


def test_killed_and_stopped_at_random_moments_the_result_is_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    wrong = kills.run(tmp_path, kills=3, gently=1, seed=2)
    assert wrong == 0, capsys.readouterr().out


def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    try:
        with full_disk.small_disk(tmp_path / "probe", full_disk.PAGE):
            pass
    except subprocess.CalledProcessError:
        pytest.skip("mounting is not allowed here")
    assert full_disk.run(tmp_path, points=3) == [], capsys.readouterr().out


def test_jobs_leave_nothing_behind_and_their_parent_as_it_was(tmp_path: Path) -> None:
    for count, work in ((12, soak.stand_ins), (2, soak.real_folds)):
        folder = tmp_path / str(count)
        folder.mkdir()
        wrong = soak.faults(soak.soak(count, work(folder), every=count), folder)
        assert [fault for fault in wrong if not fault.startswith("memory")] == []


def test_the_harness_sees_what_differs_and_what_is_left(tmp_path: Path) -> None:
    place = Place(tmp_path)
    folder = place.run.fold(MODEL, 0)
    (folder / "checkpoint").mkdir(parents=True)
    place.run.folds.write_text("img,subject,classname,fold\n")
    (folder / "history.csv").write_text("epoch,seconds\n1,0.5\n")
    first = place.results()
    assert set(first) == {"runs/tiny/folds.csv", "runs/tiny/mobilenet/fold_0/history.csv"}
    (folder / "history.csv").write_text("epoch,seconds\n1,0.7\n")
    assert differing(first, place.results()) == []
    (folder / "history.csv").write_text("epoch,seconds\n2,0.7\n")
    place.run.folds.unlink()
    assert differing(first, place.results()) == sorted(first)
    half = folder / "checkpoint/.state.npz.part-abcdefgh.npz"
    half.touch()
    (place.run.path / ".folds.lock").touch()
    assert place.temporaries() == {str(half)}
    hits = [kills.Hit(signal.SIGKILL, "fold 0, epochs", (half.name,), 0.1), kills.Hit(signal.SIGKILL, "blend", (), 0.1)]
    assert kills.histogram(hits).splitlines()[1:] == [
        *("    1  blend #", "    1  fold 0, epochs #"),
        *("    1  of them between a write and its rename:", "        1  state.npz"),
    ]
    others = frozenset({7})  # of this process, from before the soak
    grown = [soak.Measure(0, 0, 5, others), soak.Measure(1, 0, 5, others), soak.Measure(20, 2**21, 6, others | {8}, 2)]
    assert [fault.split(":")[0] for fault in soak.faults(grown, tmp_path)] == [
        *("memory grew by 2,097,152 bytes", "open files grew by 1"),
        *("processes left", "threads left", "temporary files left"),
    ]
    assert "[8]" in soak.faults(grown, tmp_path)[2]
