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


def test_class_columns_are_found_by_name(tmp_path: Path, frame: pd.DataFrame) -> None:
    expected = read_predictions(saved(tmp_path, frame))
    shuffled = frame[["c3", "c0", "img", *(name for name in reversed(CLASSES) if name not in ("c3", "c0"))]]
    pd.testing.assert_frame_equal(read_predictions(saved(tmp_path, shuffled)), expected)


def test_numeric_image_names_stay_text(tmp_path: Path, frame: pd.DataFrame) -> None:
    frame["img"] = ["001", "002", "003", "004", "005", "006"]
    assert list(read_predictions(saved(tmp_path, frame)).index) == list(frame["img"])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, "much", -0.1])
def test_what_is_no_probability_is_named_with_its_image(tmp_path: Path, frame: pd.DataFrame, value: object) -> None:
    frame["c4"] = frame["c4"].astype(object)
    frame.loc[2, "c4"] = value
    message = refused(saved(tmp_path, frame))
    assert "expected finite numbers of at least 0" in message and "for img_2.jpg (1 such rows)" in message


@pytest.mark.parametrize("value", [0.0, 1e308])
def test_a_row_that_cannot_be_normalised(tmp_path: Path, frame: pd.DataFrame, value: float) -> None:
    frame.loc[3:4, list(CLASSES)] = value
    assert "for img_3.jpg (2 such rows)" in refused(saved(tmp_path, frame))


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


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("img_0.jpg", "more than once: 1 (img_0.jpg). Keep one row of each"),
        ("  ", "1 rows have no image name (row 6 below the header)"),
    ],
)
def test_image_names_that_are_missing_or_listed_again(
    tmp_path: Path, frame: pd.DataFrame, name: str, words: str
) -> None:
    frame.loc[5, "img"] = name
    assert words in refused(saved(tmp_path, frame))


@pytest.mark.parametrize("change", [{"c9": "c10"}, {"img": "image"}])
def test_other_columns(tmp_path: Path, frame: pd.DataFrame, change: dict[str, str]) -> None:
    assert next(iter(change.values())) in refused(saved(tmp_path, frame.rename(columns=change)))


def test_a_damaged_line_is_named(tmp_path: Path, frame: pd.DataFrame) -> None:
    path = saved(tmp_path, frame)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], lines[2] + ",7", *lines[3:]]))
    assert "1 rows without the header's 11 fields (line 3 has 12)" in refused(path)
    path.write_text("\n".join([*lines[:2], '"' + lines[2]]))
    assert "line 3 is not CSV (unexpected end of data). Look for a quotation mark too many" in refused(path)
    path.write_bytes("\n".join(lines).replace("img_2", "é").encode("latin-1"))
    assert "is not UTF-8" in refused(path)


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    for name, content in (("empty.csv", b""), ("binary.csv", bytes(range(256)) * 50)):
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name)
    refused(tmp_path / "absent.csv")
    refused(tmp_path)


@pytest.mark.parametrize("rows", [np.full((2, 10), 0.1), np.full((1, 9), 1 / 9), np.full((1, 10), np.nan)])
def test_writing_refuses_what_is_no_prediction(tmp_path: Path, rows: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected finite probabilities"):
        write_predictions(tmp_path / "table.csv", ["a.jpg"], rows)
    assert not (tmp_path / "table.csv").exists()
