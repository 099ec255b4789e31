"""Files are written whole or not at all, even where the writer is killed."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import UserError
from common.files import read_json, remove_leftovers, write_json, write_text, written_whole


def test_error_in_the_block_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(RuntimeError), written_whole(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_temporary_file_lies_beside_with_the_same_suffix(tmp_path: Path) -> None:
    with written_whole(tmp_path / "new" / "model.keras") as temporary:
        assert temporary.parent == tmp_path / "new" and temporary.suffix == ".keras"
        temporary.write_bytes(b"x")
    assert (tmp_path / "new" / "model.keras").read_bytes() == b"x"


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "file.txt", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "file.txt").stat().st_mode & 0o777 == 0o640


def test_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write") as caught:
        write_text(tmp_path / "file" / "below.txt", "x")
    assert "\n" not in str(caught.value)


def test_json_round_trip(tmp_path: Path) -> None:
    value = {"epochs": 3, "name": "vgg16 é", "sizes": [1, 2.5, None, True]}
    write_json(tmp_path / "value.json", value)
    assert read_json(tmp_path / "value.json") == value


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe\x00"])
def test_json_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "value.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"cannot read .*value\.json"):
        read_json(path)


def test_what_a_killed_process_left_goes_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = tmp_path / f".durations.json.part-{platform.node()}-{ended.pid}.json"
    living = tmp_path / f".durations.json.part-{platform.node()}-{os.getppid()}.json"
    for path in (left, living):
        path.write_text("[")
    remove_leftovers(tmp_path / "durations.json")
    assert not left.exists() and living.exists()
