"""CSV files, read strictly: a row of another length than the header is an error and never shifts the columns."""

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError, named
from common.files import write_text

QUOTES = "Look for a quotation mark too many"
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
        lines = [(reader.line_num, row) for row in reader if row]
    except FileNotFoundError:
        raise
    except csv.Error as error:
        place = f"line {reader.line_num:,} is not CSV ({error}). {QUOTES}."
        raise UserError(f"{path}: cannot be read as {what}: {place}") from error
    except UnicodeDecodeError as error:
        place = f"byte {error.start + 1:,} is not UTF-8 text. Save it as 'CSV UTF-8'."
        raise UserError(f"{path}: cannot be read as {what}: {place}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as {what}: {error}") from error
    ragged = [f"line {number:,} has {len(row)}" for number, row in lines if len(row) != len(header)]
    if ragged:
        found = f"{len(ragged):,} rows without the header's {len(header)} fields ({named(ragged)})."
        raise UserError(f"{path}: cannot be read as {what}: {found}")
    if listed_again(header):
        columns = named(listed_again(header))
        raise UserError(f"{path}: cannot be read as {what}: it has the column {columns} more than once.")
    return header, [row for _, row in lines]


def check_image_names(path: Path, images: Sequence[str]) -> None:
    """Raises a UserError unless every row of a table has an image name, and each name stands there once."""
    nameless = [f"row {number:,}" for number, name in enumerate(images, 1) if not name.strip()]
    if nameless:
        raise UserError(f"{path}: {len(nameless):,} rows have no image name ({named(nameless)} below the header).")
    if listed_again(images):
        again = listed_again(images)
        raise UserError(f"{path}: images listed more than once: {len(again):,} ({named(again)}). Keep one row of each.")


def listed_again(names: Sequence[str]) -> list[str]:
    """Those names that are listed more than once, each once, in their order."""
    return [name for name, count in Counter(names).items() if count > 1]


def write_rows(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Writes a CSV file, whole or not at all; lines end with a newline alone.

    Raises:
        UserError: the folder cannot be written to, or the disk is full.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_text(path, text.getvalue())


def is_formula(text: str) -> bool:
    """Whether a spreadsheet might take a cell for a formula; or whether it begins with a control character."""
    return bool(_FORMULA.match(text))


def as_cell(text: str) -> str:
    """Text for a cell of a file that people open in a spreadsheet: never a formula."""
    return f"'{text}" if is_formula(text) else text


def from_cell(text: str) -> str:
    """What `as_cell` was given."""
    return text[1:] if text.startswith("'") and is_formula(text[1:]) else text
