"""CSV files, read strictly: a row of another length than the header is an error and never shifts the columns."""

import csv
import io
import re
from pathlib import Path

from preprocessing.errors import UserError, named

_FORMULA = re.compile(r"[=+\-@]|[\x00-\x1f\x7f]")  # what spreadsheets take for a formula when a cell begins with it


def read_rows(path: Path, what: str) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of a CSV file; a byte order mark and CRLF are accepted, empty lines passed over.

    Args:
        what: it should be, for the message, such as 'a fold table'.

    Raises:
        FileNotFoundError: it is not there.
        UserError: it cannot be read, is not UTF-8 or not CSV, or has rows of another length than its header.
    """
    try:
        content = Path(path).read_bytes()
        reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        header = next(reader, [])
        rows = [row for row in reader if row]
    except FileNotFoundError:
        raise
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as {what}: {error}") from error
    ragged = sum(len(row) != len(header) for row in rows)
    if ragged:
        raise UserError(f"{path}: cannot be read as {what}: {ragged:,} rows without the header's {len(header)} fields.")
    twice = sorted({column for column in header if header.count(column) > 1})
    if twice:
        raise UserError(f"{path}: cannot be read as {what}: it has the column {named(twice)} more than once.")
    return header, rows


def is_formula(text: str) -> bool:
    """Whether a spreadsheet might take a cell for a formula; or whether it begins with a control character."""
    return bool(_FORMULA.match(text))


def as_cell(text: str) -> str:
    """Text for a cell of a file that people open in a spreadsheet: never a formula."""
    return f"'{text}" if is_formula(text) else text


def from_cell(text: str) -> str:
    """What `as_cell` was given."""
    return text[1:] if text.startswith("'") and is_formula(text[1:]) else text
