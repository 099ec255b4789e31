"""Submits a run's blend to Kaggle, waits for the score, and writes it down beside the out-of-fold estimate.

    python -m ensemble.submit full
    python -m ensemble.submit full --check          # only validate it and show what to expect

Checks submissions/NAME.csv against the sample submission, uploads it with Kaggle's own client (requirements/kaggle.txt)
and appends the scores to submissions/leaderboard.csv. The same file is not uploaded twice, unless --again is given;
after an interruption the same command waits on.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import math
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import locks
from common.competition import COMPLETE_TEST_IMAGES, SAMPLE_SUBMISSION, SLUG
from common.errors import UserError, named, run_command
from common.files import as_cell, from_cell, read_json, sha256_of, written_whole
from common.kaggle_client import PAGE, run_client
from common.run_folder import RUNS, SUBMISSIONS, RunFolder
from common.settings import CommandLine, nearest

ASK_EVERY = 5.0  # seconds
LONGEST_WAIT = 15.0  # minutes


@dataclass(frozen=True)
class Estimate:
    """The loss to expect of a submission, from its blend out of fold; nan and 0 where nothing is known."""

    log_loss: float = float("nan")
    accuracy: float = float("nan")
    images: int = 0
    drivers: int = 0
    of_this_file: bool = False

    def __str__(self) -> str:
        if not self.images:
            return "expected: unknown, since the run has no blend (python -m ensemble.blend)"
        text = (
            f"expected: log loss about {self.log_loss:.4f}, accuracy {self.accuracy:.1%}: out of fold, on "
            f"{self.images:,} images of {self.drivers} drivers"
        )
        return text if self.of_this_file else f"{text}; but the last blend of this run wrote another file than this"


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
        """As text, beside the estimate."""
        estimate = "" if math.isnan(self.out_of_fold) else f"; out of fold it was {self.out_of_fold:.5f}"
        return f"leaderboard: public {_shown(self.public)}, private {_shown(self.private)}{estimate}"

    def scored_by(self, listed: str) -> Entry:
        """This entry with its scores, if the client's list of submissions (CSV) has them.

        Raises:
            UserError: Kaggle could not score it.
        """
        lines = listed.splitlines()
        header = next((number for number, line in enumerate(lines) if line.startswith("ref,")), len(lines))
        for row in csv.DictReader(io.StringIO("\n".join(lines[header:]))):
            if row.get("description") != self.message:
                continue
            status = str(row.get("status", "")).rpartition(".")[2].upper()
            if status == "ERROR":
                raise UserError(f"Kaggle could not score the submission; see {PAGE}/submissions. To try again: --again")
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


def _shown(score: float) -> str:
    return "unknown" if math.isnan(score) else f"{score:.5f}"


def command_line() -> CommandLine:
    """The options of this command."""
    parser = CommandLine(prog="python -m ensemble.submit", description=__doc__)
    parser.add_argument("run", metavar="NAME", help="the run, as in submissions/NAME.csv")
    parser.add_argument("--runs", type=Path, default=RUNS, metavar="DIR", help="where runs lie [runs]")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="folder with sample_submission.csv, for the order of the rows [the data, found by itself]",
    )
    parser.add_argument(
        "--submissions", type=Path, default=SUBMISSIONS, metavar="DIR", help="where the submission lies [submissions]"
    )
    parser.add_argument("--message", default="", metavar="TEXT", help="shown beside the score at Kaggle [the estimate]")
    parser.add_argument("--wait", type=_minutes, metavar="MIN", help="longest wait for the score [15 minutes]")
    parser.add_argument("--check", action="store_true", help="only validate it and show what to expect")
    parser.add_argument("--again", action="store_true", help="upload although this very file was submitted before")
    return parser


def _minutes(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]*)?", text):
        raise argparse.ArgumentTypeError(f"expected a number of minutes such as 15 or 0.5, found {text!r}")
    return float(text)


def main() -> None:
    arguments = command_line().parse_args()
    uploading = {"--message": arguments.message, "--wait": arguments.wait is not None, "--again": arguments.again}
    for option in [option for option, given in uploading.items() if given and arguments.check]:
        raise UserError(f"{option} is for an upload, and --check uploads nothing. Leave one of them out.")
    run = RunFolder.of(arguments.run, arguments.runs).path
    path = arguments.submissions / f"{arguments.run}.csv"
    _require(path)

    from preprocessing.dataset import required

    alone = arguments.data and (arguments.data / SAMPLE_SUBMISSION).is_file()
    check(path, (arguments.data if alone else required(arguments.data)) / SAMPLE_SUBMISSION)
    expected = estimate(run, path)
    print(f"{path}: valid, {COMPLETE_TEST_IMAGES:,} images\n{expected}")
    if arguments.check:
        return
    if not expected.of_this_file:
        expected = Estimate()  # of another blend: nothing is known of this one

    board = Leaderboard(arguments.submissions / "leaderboard.csv")
    entry = None if arguments.again else board.entry_of(path)
    if entry and arguments.message and entry.message != described(arguments.message, entry.submitted):
        print(f"note: --message is not used: the file is at Kaggle already, as {entry.message!r} (--again for another)")
    if entry is not None and entry.finished:
        print(f"submitted before, at {entry.submitted}: {entry.scores}. Nothing to do (--again uploads it once more).")
        return
    if entry is None:
        entry = upload(arguments.run, path, expected, arguments.message)
        board.write(entry)
    print(f"submitted at {entry.submitted}; waiting for the score")
    entry = wait_for_score(entry, 60 * (LONGEST_WAIT if arguments.wait is None else arguments.wait))
    board.write(entry)
    print(f"{entry.scores}\n{os.path.relpath(board.path) if board.path.is_relative_to(Path.cwd()) else board.path}")


def _require(path: Path) -> None:
    if path.is_file():
        return
    there = sorted(other.stem for other in path.parent.glob("*.csv") if other.stem != "leaderboard")
    hint = f"{nearest(path.stem, there) or '.'} There are: {named(there, 10)}." if there else "."
    raise UserError(f"{path}: no such submission{hint} Make it: python -m ensemble.blend --run {path.stem}")


def check(path: Path, sample: Path) -> None:
    """Checks a submission against the complete competition's sample submission.

    Raises:
        UserError: malformed, or of other images; Kaggle would refuse it.
    """
    from common.tables import check_submission, read_sample_images

    images = read_sample_images(sample)
    check_submission(path, images)
    if len(images) != COMPLETE_TEST_IMAGES:
        raise UserError(
            f"{path} is of {len(images):,} images, as {sample} is. Kaggle expects the competition's "
            f"{COMPLETE_TEST_IMAGES:,}: blend a run on the complete data, and name it with --data."
        )


def estimate(run: Path, path: Path) -> Estimate:
    """The out-of-fold estimate in the run's blend.json; an empty one where there is none."""
    from ensemble.blend_run import RECORD

    record = run / "ensemble" / RECORD
    if not record.is_file():
        return Estimate()
    content: dict[str, Any] = read_json(record)
    stamps = content.get("outputs", {}).values()
    _require_whole(path, content.get("outputs", {}))
    try:
        return Estimate(
            log_loss=float(content["nested_log_loss"]),
            accuracy=float(content["nested_accuracy"]),
            images=int(content["images"]),
            drivers=int(content["drivers"]),
            of_this_file=sha256_of(path) in {stamp.get("sha256") for stamp in stamps},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{record}: expected the record of a blend, found none of {error}. Blend again.") from error


def _require_whole(path: Path, stamps: dict[str, Any]) -> None:
    """Raises a UserError if the content changed since the blend, but not the time of change: the disk corrupted it."""
    status = path.stat()
    for stamp in stamps.values():
        if (stamp.get("size"), stamp.get("mtime_ns")) == (status.st_size, status.st_mtime_ns):
            if stamp.get("sha256") == sha256_of(path):
                return
            raise UserError(f"{path} is corrupted: its checksum is not that of the blend. Blend again to replace it.")


def upload(run: str, path: Path, expected: Estimate, message: str) -> Entry:
    """Uploads a submission; returns its entry of the leaderboard, without scores.

    Raises:
        UserError: whatever keeps it from Kaggle.
    """
    submitted = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    promised = f", out of fold {expected.log_loss:.4f}" if expected.images else ""
    description = described(message or run + promised, submitted)
    words = ("competitions", "submit", "-q", SLUG, "-f", str(path), "-m", description)
    run_client(*words, what="the submission", browser=_browser(path))
    return Entry(submitted, run, sha256_of(path), expected.log_loss, description)


def described(message: str, submitted: str) -> str:
    """The message as Kaggle shows it; the time makes that of two submissions of one file differ."""
    return f"{message} ({submitted} UTC)"


def wait_for_score(entry: Entry, longest: float) -> Entry:
    """Asks for the score of a submission until it is there; returns the entry with it.

    Args:
        longest: seconds.

    Raises:
        UserError: Kaggle could not score it, or takes longer.
    """
    started = time.monotonic()
    while True:
        listed = run_client(
            *("competitions", "submissions", "-q", SLUG, "-v", "--page-size", "50"),
            what="the list of submissions",
            browser=f"The score is in a browser too: {PAGE}/submissions",
        )
        scored = entry.scored_by(listed)
        if scored.finished:
            return scored
        if time.monotonic() - started + ASK_EVERY > longest:
            raise UserError(
                f"no score after {longest / 60:g} minutes. The submission is at Kaggle ({PAGE}/submissions): run the "
                "same command again to go on waiting."
            )
        time.sleep(ASK_EVERY)


def _browser(path: Path) -> str:
    return f"Or upload {path} in a browser: {PAGE}/submit"


if __name__ == "__main__":
    run_command(main)
