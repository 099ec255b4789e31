"""Submits a run's blend to Kaggle, waits for the score, and writes it down beside the out-of-fold estimate.

    python -m ensemble.submit full
    python -m ensemble.submit full --check          # only validate it and show what to expect

Checks submissions/NAME.csv against the sample submission, uploads it with Kaggle's own client (requirements-kaggle.txt)
and appends the scores to submissions/leaderboard.csv. The same file is not uploaded twice, unless --again is given;
stopped while it waits, the same command goes on waiting.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.competition import COMPLETE_TEST_IMAGES, SAMPLE_SUBMISSION
from common.errors import UserError, named, run_command
from common.run_folder import RUNS, SUBMISSIONS, run_folder
from common.settings import CommandLine, nearest

if TYPE_CHECKING:
    from ensemble.leaderboard import Entry

ASK_EVERY = 5.0  # seconds
LONGEST_WAIT = 15.0  # minutes


@dataclass(frozen=True)
class Estimate:
    """What a run promises of its submission, out of fold; nan and 0 where nothing is known."""

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


def command_line() -> CommandLine:
    """The options of this command."""
    parser = CommandLine(prog="python -m ensemble.submit", description=__doc__)
    parser.add_argument("run", metavar="NAME", help="the run, as in submissions/NAME.csv")
    parser.add_argument("--runs", type=Path, default=RUNS, metavar="DIR", help="where runs lie [runs]")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="the competition's folder, for the order of the rows [found by itself]"
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
    run = run_folder(arguments.run, arguments.runs)
    path = arguments.submissions / f"{arguments.run}.csv"
    _require(path)

    from preprocessing.dataset import required

    check(path, required(arguments.data) / SAMPLE_SUBMISSION)
    expected = estimate(run, path)
    print(f"{path}: valid, {COMPLETE_TEST_IMAGES:,} images\n{expected}")
    if arguments.check:
        return
    if not expected.of_this_file:
        expected = Estimate()  # of another blend: nothing to promise with this one

    from ensemble.leaderboard import Leaderboard

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
    from ensemble.submission import check_submission, read_sample_images

    images = read_sample_images(sample)
    check_submission(path, images)
    if len(images) != COMPLETE_TEST_IMAGES:
        raise UserError(
            f"{path} is of {len(images):,} images, as {sample} is. Kaggle expects the competition's "
            f"{COMPLETE_TEST_IMAGES:,}: blend a run on the complete data, and name it with --data."
        )


def estimate(run: Path, path: Path) -> Estimate:
    """The out-of-fold estimate in the run's blend.json; an empty one where there is none."""
    from common.files import read_json, sha256_of
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
    """Raises a UserError if nothing was written since the blend, and yet the content is another: the disk's doing."""
    from common.files import sha256_of

    status = path.stat()
    for stamp in stamps.values():
        if (stamp.get("size"), stamp.get("mtime_ns")) == (status.st_size, status.st_mtime_ns):
            if stamp.get("sha256") == sha256_of(path):
                return
            raise UserError(f"{path} is damaged: its checksum is not that of the blend. Blend again; that mends it.")


def upload(run: str, path: Path, expected: Estimate, message: str) -> Entry:
    """Uploads a submission; returns its entry of the leaderboard, without scores.

    Raises:
        UserError: whatever keeps it from Kaggle.
    """
    from common.competition import SLUG
    from common.files import sha256_of
    from ensemble.leaderboard import Entry
    from preprocessing.kaggle_client import last_words, run_client

    submitted = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    promised = f", out of fold {expected.log_loss:.4f}" if expected.images else ""
    told = described(message or run + promised, submitted)
    browser = _browser(path)
    said = run_client("submit", "-q", "-c", SLUG, "-f", str(path), "-m", told, what="the submission", browser=browser)
    if "Could not" in said:  # with which the client ends in peace
        raise UserError(f"Kaggle did not take the submission. {last_words(said)}\n{browser}")
    return Entry(submitted, run, sha256_of(path), expected.log_loss, told)


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
    from common.competition import SLUG
    from preprocessing.kaggle_client import PAGE, run_client

    begun = time.monotonic()
    while True:
        said = run_client(
            *("submissions", "-q", "-c", SLUG, "-v", "--page-size", "50"),
            what="the list of submissions",
            browser=f"The score is in a browser too: {PAGE}/submissions",
        )
        scored = entry.scored_by(said)
        if scored.finished:
            return scored
        if time.monotonic() - begun + ASK_EVERY > longest:
            raise UserError(
                f"no score after {longest / 60:g} minutes. The submission is at Kaggle ({PAGE}/submissions): start the "
                "same command again to go on waiting."
            )
        time.sleep(ASK_EVERY)


def _browser(path: Path) -> str:
    from preprocessing.kaggle_client import PAGE

    return f"Or upload {path} in a browser: {PAGE}/submit"


if __name__ == "__main__":
    run_command(main)
