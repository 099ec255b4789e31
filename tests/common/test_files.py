"""Files are written whole or not at all; a lock's second is told of the first; what a dead process left is swept."""

import multiprocessing
import os
import platform
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from common.cache import make_room
from common.errors import UserError
from common.files import locked, write_text, written_whole
from common.run_folder import REPOSITORY
from common.settings import ImageSize
from preprocessing.images import ImageStore

Start = Callable[[str], subprocess.Popen]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts Python code that says 'ready' and then waits for a line; returns the process."""
    started: list[subprocess.Popen] = []

    def begin(code: str) -> subprocess.Popen:
        command, pipe = [sys.executable, "-c", textwrap.dedent(code)], subprocess.PIPE
        started.append(subprocess.Popen(command, cwd=REPOSITORY, stdin=pipe, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def holding(path: Path) -> str:
    return f"""
        from pathlib import Path
        from common import files
        files.QUIET_SECONDS = 0
        with files.locked(Path({str(path)!r}), "it is being made", wait=True):
            print("ready", flush=True)
            input()
        """


def ready(process: subprocess.Popen) -> None:
    assert process.stdout.readline() == "ready\n", process.stderr.read()


def test_the_second_is_told_who_the_first_is_and_a_dead_one_holds_nothing(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "new" / ".it.lock"
    first = start(holding(path))
    ready(first)
    with (
        pytest.raises(UserError, match=rf"it is made by another process: process {first.pid} on {platform.node()}\. "),
        locked(path, "it is made"),
    ):
        pass
    first.kill()
    first.wait()
    assert path.exists()
    with locked(path, "it is made"):
        assert path.read_text() == f"process {os.getpid()} on {platform.node()}\n"
    assert not path.exists()


def test_who_waits_says_for_whom_and_goes_on_when_the_first_ends(start: Start, tmp_path: Path) -> None:
    path = tmp_path / ".it.lock"
    first = start(holding(path))
    ready(first)
    second = start(holding(path))
    assert f"process {first.pid} on {platform.node()}. Waiting" in second.stderr.readline()
    first.communicate("\n")
    ready(second)
    second.communicate("\n")
    assert second.returncode == 0
    assert not path.exists()


def test_what_a_killed_process_was_writing_goes_when_it_is_written_again(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    writing = f"""
        from pathlib import Path
        from common.files import written_whole
        with written_whole(Path({str(path)!r})) as temporary:
            temporary.write_text("half")
            print("ready", flush=True)
            input()
        """
    first, second = start(writing), start(writing)
    ready(first)
    ready(second)
    assert len(list(tmp_path.iterdir())) == 3
    first.kill()
    first.wait()
    assert path.read_text() == "old"
    write_text(path, "whole")
    assert path.read_text() == "whole"
    assert len(list(tmp_path.iterdir())) == 2, "the living process's is left to it"
    second.communicate("\n")
    assert second.returncode == 0
    assert [(left.name, left.read_text()) for left in tmp_path.iterdir()] == [("table.csv", "half")]


def test_what_a_process_writes_to_the_cache_does_not_give_way(start: Start, tmp_path: Path) -> None:
    entry, other = tmp_path / "cache" / "images" / "old", tmp_path / "cache" / "images" / "new"
    entry.mkdir(parents=True)
    (entry / "block_00000.npy").write_bytes(bytes(100))
    writing = start(holding(entry / ".block_00001.npy.lock"))
    ready(writing)
    assert not make_room(other, needed=100, limit=100)
    assert entry.exists()
    writing.communicate("\n")
    assert make_room(other, needed=100, limit=100)
    assert not entry.exists()


def fill(paths: list[Path], cache: Path, start: Barrier) -> None:
    store = ImageStore(paths, ImageSize(32, 32), cache, "same", 2**30)
    start.wait(60)
    store.prepare(2)


def test_two_processes_fill_one_image_cache_with_the_same_bytes(tiny_tree: Callable[..., Path], tmp_path: Path) -> None:
    paths = sorted(tiny_tree(drivers=14, images_per_class=2, test_images=2).rglob("*.jpg"))  # 282 images, two blocks
    caches, context = [tmp_path / "shared", tmp_path / "alone"], multiprocessing.get_context("spawn")
    start = context.Barrier(3)
    processes = [context.Process(target=fill, args=(paths, cache, start)) for cache in (*caches, caches[0])]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    shared, alone = ({path.name: path.read_bytes() for path in cache.rglob("*") if path.is_file()} for cache in caches)
    assert len(shared) == 2
    assert shared == alone


def test_error_in_the_block_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(RuntimeError), written_whole(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
