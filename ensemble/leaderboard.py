"""submissions/leaderboard.csv: what was submitted, what it promised out of fold, and what Kaggle made of it."""

import csv
import dataclasses
import io
import math
from dataclasses import dataclass
from pathlib import Path

from common import locks
from common.csv_files import as_cell, from_cell
from common.errors import UserError
from common.files import sha256_of, written_whole
from preprocessing.kaggle_client import PAGE


@dataclass(frozen=True)
class Entry:
    """One submission; the fields are the columns of the file.

    Attributes:
        submitted: when, in UTC.
        run: its name.
        sha256: of the file.
        out_of_fold: the estimate of its log loss; nan where there is none.
        message: with which it was submitted, by which Kaggle's list is searched.
        public, private: Kaggle's log losses, on 31 % and 69 % of the test images; nan until they are known.
    """

    submitted: str
    run: str
    sha256: str
    out_of_fold: float
    message: str
    public: float = float("nan")
    private: float = float("nan")

    @property
    def finished(self) -> bool:
        """Whether Kaggle has scored it."""
        return not math.isnan(self.public) or not math.isnan(self.private)

    @property
    def scores(self) -> str:
        """In words, beside the estimate."""
        estimate = "" if math.isnan(self.out_of_fold) else f"; out of fold it was {self.out_of_fold:.5f}"
        return f"leaderboard: public {_word(self.public)}, private {_word(self.private)}{estimate}"

    def scored_by(self, said: str) -> "Entry":
        """This entry with its scores, if the client's list of submissions (CSV) has them.

        Raises:
            UserError: Kaggle could not score it.
        """
        lines = said.splitlines()
        header = next((number for number, line in enumerate(lines) if line.startswith("ref,")), len(lines))
        for row in csv.DictReader(io.StringIO("\n".join(lines[header:]))):
            if row.get("description") != self.message:
                continue
            status = str(row.get("status", "")).rpartition(".")[2].upper()
            if status == "ERROR":
                raise UserError(
                    f"Kaggle could not score the submission; it says why at {PAGE}/submissions. To try anew: --again"
                )
            if status == "COMPLETE":
                public, private = _number(row["publicScore"]), _number(row["privateScore"])
                return dataclasses.replace(self, public=public, private=private)
        return self


class Leaderboard:
    """The file; rows stand in the order of submission.

    Raises:
        UserError: it is there, but is something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[Entry] = []
        self._read()

    def _read(self) -> None:
        self.entries, path = [], self.path
        names = [field.name for field in dataclasses.fields(Entry)]
        if not path.exists():
            return
        try:
            with path.open(newline="", encoding="utf-8") as stream:
                rows = list(csv.DictReader(stream))
            for row in rows:
                numbers = {name: _number(row[name]) for name in ("out_of_fold", "public", "private")}
                self.entries.append(Entry(**({name: from_cell(row[name]) for name in names} | numbers)))  # type: ignore[arg-type]
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: expected the columns {','.join(names)} ({error}). Move it away.") from error

    def entry_of(self, submission: Path) -> Entry | None:
        """The last entry of this very file."""
        digest = sha256_of(submission)
        return next((entry for entry in reversed(self.entries) if entry.sha256 == digest), None)

    def write(self, entry: Entry) -> None:
        """Adds an entry, or puts it in the place of the one that was submitted with the same message.

        What other processes wrote since it was read stays.
        """
        lock = self.path.with_name(f".{self.path.name}.lock")
        with locks.held(lock, f"{self.path} is being written", wait=True):
            self._read()
            self._write(entry)

    def _write(self, entry: Entry) -> None:
        known = [other.message for other in self.entries]
        if entry.message in known:
            self.entries[known.index(entry.message)] = entry
        else:
            self.entries.append(entry)
        with written_whole(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow([field.name for field in dataclasses.fields(Entry)])
            for row in self.entries:
                values = dataclasses.astuple(row)
                cells = ["" if isinstance(v, float) and math.isnan(v) else v for v in values]
                writer.writerow([as_cell(cell) if isinstance(cell, str) else cell for cell in cells])


def _number(text: str) -> float:
    return float(text) if text not in ("", "None") else float("nan")


def _word(score: float) -> str:
    return "unknown" if math.isnan(score) else f"{score:.5f}"
