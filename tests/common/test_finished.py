"""Records of finished pieces that are not what they were."""

from pathlib import Path

import pytest

from common.files import sha256_of, write_json
from common.finished import FINISHED, damaged_outputs


@pytest.mark.parametrize("name", ["x" * 300, "../outside.csv", "", "a\0b"])
def test_a_record_that_names_what_cannot_be_an_output_is_damage_and_nothing_else(tmp_path: Path, name: str) -> None:
    piece = tmp_path / "fold_0"
    piece.mkdir()
    (tmp_path / "outside.csv").write_text("")
    write_json(piece / FINISHED, {"sha256": {name: sha256_of(tmp_path / "outside.csv")}})
    assert damaged_outputs(piece) == [name]
