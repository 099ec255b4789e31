"""The short modes: a few hundred mutated files for each reader, and changed bytes in all that a run leaves."""

from pathlib import Path

import pytest

from tests.reliability.fuzz import fuzz, readers
from tests.reliability.rot import Run, kinds, rot

READERS = ("driver_list", "sample_submission", "fold_table", "prediction_table", "record", "jpeg_header")


@pytest.mark.parametrize("name", READERS)
def test_mutated_files_are_read_or_refused(name: str, tmp_path: Path) -> None:
    counts, escapes = fuzz(name, readers(tmp_path)[name], 300, 7, tmp_path)
    assert not escapes
    assert counts["read"] > 3, "or the seeds are not valid"
    assert counts["refused"] > 30


@pytest.mark.parametrize("of_cache", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_no_changed_byte_reaches_a_submission(of_cache: bool, tmp_path: Path) -> None:
    every = {name: kind for name, kind in kinds(Run(tmp_path)).items() if of_cache == name.startswith("cached")}
    found, missed = rot(every, 2 * len(every), 3)
    assert not missed
    assert set(found) == set(every)
