"""Prediction tables: what is written is read back; what is wrong is one line naming the file and the offenders."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common.competition import CLASSES
from common.errors import UserError
from common.tables import read_predictions, write_predictions

IMAGES = [f"img_{number}.jpg" for number in range(6)]


@pytest.fixture
def frame() -> pd.DataFrame:
    table = pd.DataFrame(np.random.default_rng(0).dirichlet(np.ones(10), size=6), columns=list(CLASSES))
    table.insert(0, "img", IMAGES)
    return table


def saved(tmp_path: Path, table: pd.DataFrame) -> Path:
    path = tmp_path / "table.csv"
    table.to_csv(path, index=False)
    return path


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_predictions(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


def test_written_table_is_read_back(tmp_path: Path, frame: pd.DataFrame) -> None:
    probabilities = frame[list(CLASSES)].to_numpy()
    write_predictions(tmp_path / "deep" / "er" / "table.csv", IMAGES, probabilities.astype(np.float32))
    table = read_predictions(tmp_path / "deep" / "er" / "table.csv")
    assert list(table.index) == IMAGES
    assert list(table.columns) == list(CLASSES)
    np.testing.assert_allclose(table.to_numpy(), probabilities, atol=1e-7)
    np.testing.assert_allclose(table.to_numpy().sum(axis=1), 1, atol=1e-15)


def test_columns_are_found_by_name_and_numeric_image_names_stay_text(tmp_path: Path, frame: pd.DataFrame) -> None:
    frame["img"] = ["001", "002", "003", "004", "005", "006"]
    expected = read_predictions(saved(tmp_path, frame))
    assert list(expected.index) == list(frame["img"])
    pd.testing.assert_frame_equal(read_predictions(saved(tmp_path, frame[reversed(frame.columns)])), expected)


@pytest.mark.parametrize(
    ("rows", "columns", "value", "words"),
    [
        *(([2], "c4", value, "for img_2.jpg (1 such rows)") for value in (np.nan, np.inf, -np.inf, "much", -0.1)),
        *(([3, 4], list(CLASSES), value, "for img_3.jpg (2 such rows)") for value in (0.0, 1e308)),
        ([5], "img", "img_0.jpg", "more than once: 1 (img_0.jpg). Keep one row of each"),
        ([5], "img", "  ", "1 rows have no image name (row 6 below the header)"),
    ],
)
def test_wrong_rows_are_named(
    tmp_path: Path, frame: pd.DataFrame, rows: list[int], columns: str | list[str], value: object, words: str
) -> None:
    frame = frame.astype(object)
    frame.loc[rows, columns] = value
    assert words in refused(saved(tmp_path, frame))


def test_rows_that_do_not_sum_to_one_are_normalised_and_counted(
    tmp_path: Path, frame: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = read_predictions(saved(tmp_path, frame))
    frame.loc[[3, 5], list(CLASSES)] *= 1.5
    frame.loc[4, list(CLASSES)] *= 1.0009
    found = read_predictions(saved(tmp_path, frame))
    pd.testing.assert_frame_equal(found, expected)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"warning: {tmp_path / 'table.csv'}: 2 of 6 rows do not sum to 1 (the first is img_3.jpg: 1.5"
    )


def test_files_that_are_no_tables(tmp_path: Path, frame: pd.DataFrame) -> None:
    for change in ({"c9": "c10"}, {"img": "image"}):
        assert next(iter(change.values())) in refused(saved(tmp_path, frame.rename(columns=change)))
    for name, content in (("empty.csv", b""), ("binary.csv", bytes(range(256)) * 50)):
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name)
    refused(tmp_path / "absent.csv")
    refused(tmp_path)


def test_a_damaged_line_is_named(tmp_path: Path, frame: pd.DataFrame) -> None:
    path = saved(tmp_path, frame)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], lines[2] + ",7", *lines[3:]]))
    assert "1 rows without the header's 11 fields (line 3 has 12)" in refused(path)
    path.write_text("\n".join([*lines[:2], '"' + lines[2]]))
    assert "line 3 is not CSV (unexpected end of data). Look for a quotation mark too many" in refused(path)
    path.write_bytes("\n".join(lines).replace("img_2", "é").encode("latin-1"))
    assert "is not UTF-8" in refused(path)


@pytest.mark.parametrize("rows", [np.full((2, 10), 0.1), np.full((1, 9), 1 / 9), np.full((1, 10), np.nan)])
def test_writing_refuses_what_is_no_prediction(tmp_path: Path, rows: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected finite probabilities"):
        write_predictions(tmp_path / "table.csv", ["a.jpg"], rows)
    assert not (tmp_path / "table.csv").exists()
