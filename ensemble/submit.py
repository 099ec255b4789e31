"""Submits a run's blend to Kaggle, waits for the score, and writes it down beside the out-of-fold estimate.

    python -m ensemble.submit full
    python -m ensemble.submit full --check          # only validate it and show what to expect

Checks submissions/NAME.csv against the sample submission, uploads it with Kaggle's own client (requirements/kaggle.txt)
and appends the scores to submissions/leaderboard.csv. The same file is not uploaded twice, unless --again is given;
after an interruption the same command waits on.
"""

import csv
import io
import time
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

from common import locks
from common.competition import COMPLETE_TEST_IMAGES, SAMPLE_SUBMISSION, SLUG
from common.errors import UserError, run_command
from common.files import as_cell, from_cell, read_record, read_rows, sha256_of, write_rows
from common.kaggle_client import PAGE, run_client
from common.run_folder import RUNS, SUBMISSIONS, RunFolder
from common.settings import CommandLine, number

ASK_EVERY = 5.0  # seconds


@dataclass(frozen=True)
class Entry:
    """One submission; the fields are the columns of the leaderboard's file, and texts as there.

    Attributes:
        submitted: when, in UTC.
        run: its name.
        sha256: of the file.
        out_of_fold: the estimate of its log loss; empty where there is none.
        message: with which it was submitted, by which Kaggle's list is searched.
        public, private: Kaggle's log losses, on 31 % and 69 % of the test images; empty until they are known.
    """

    submitted: str
    run: str
    sha256: str
    out_of_fold: str
    message: str
    public: str = ""
    private: str = ""

    @property
    def finished(self) -> bool:
        """Whether Kaggle has scored it."""
        return bool(self.public or self.private)

    @property
    def scores(self) -> str:
        """As text, beside the estimate."""
        estimate = f"; out of fold it was {float(self.out_of_fold):.5f}" if self.out_of_fold else ""
        return f"leaderboard: public {self.public or 'unknown'}, private {self.private or 'unknown'}{estimate}"

    def scored_by(self, listed: str) -> "Entry":
        """This entry with its scores, if the client's list of submissions (CSV) has them.

        Raises:
            UserError: Kaggle could not score it.
        """
        table = listed[listed.find("\nref,") + 1 :]  # the client may print a warning before it
        for row in csv.DictReader(io.StringIO(table)):
            if row.get("description") != self.message:
                continue
            status = str(row.get("status", "")).rpartition(".")[2].upper()
            if status == "ERROR":
                raise UserError(f"Kaggle could not score the submission; see {PAGE}/submissions. To try again: --again")
            if status == "COMPLETE":
                public, private = (row[name].replace("None", "") for name in ("publicScore", "privateScore"))
                return replace(self, public=public, private=private)
        return self


COLUMNS = [field.name for field in fields(Entry)]


def read_leaderboard(path: Path) -> list[Entry]:
    """The submissions so far, in their order.

    Raises:
        UserError: the file is something else.
    """
    if not path.exists():
        return []
    header, rows = read_rows(path, "the leaderboard")
    if header != COLUMNS:
        raise UserError(f"{path}: expected the columns {','.join(COLUMNS)}, found {','.join(header)}. Move it away.")
    return [Entry(*map(from_cell, row)) for row in rows]


def write_entry(path: Path, entry: Entry) -> None:
    """Adds an entry, or puts it in the place of the one that was submitted with the same message."""
    with locks.held(path.with_name(f".{path.name}.lock"), f"{path} is being written", wait=True):
        entries = {one.message: one for one in [*read_leaderboard(path), entry]}
        write_rows(path, COLUMNS, [[as_cell(cell) for cell in astuple(one)] for one in entries.values()])


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
    parser.add_argument("--message", metavar="TEXT", help="shown beside the score at Kaggle [the estimate]")
    parser.add_argument(
        "--wait", type=number(0, 1_000_000), metavar="MIN", help="longest wait for the score [15 minutes]"
    )
    parser.add_argument("--check", action="store_true", help="only validate it and show what to expect")
    parser.add_argument(
        "--again", action="store_true", default=None, help="upload although this very file was submitted before"
    )
    return parser


def main() -> None:
    arguments = command_line().parse_args()
    for option in ("message", "wait", "again"):
        if arguments.check and getattr(arguments, option) is not None:
            raise UserError(f"--{option} is for an upload, and --check uploads nothing. Leave one of them out.")
    run = RunFolder.of(arguments.run, arguments.runs)
    path = arguments.submissions / f"{run.name}.csv"
    if not path.is_file():
        raise UserError(f"{path}: no such submission. Make it: python -m ensemble.blend --run {run.name}")

    from preprocessing.dataset import required

    alone = arguments.data and (arguments.data / SAMPLE_SUBMISSION).is_file()
    check(path, (arguments.data if alone else required(arguments.data)) / SAMPLE_SUBMISSION)
    expected, log_loss = estimate(run, path)
    print(f"{path}: valid, {COMPLETE_TEST_IMAGES:,} images\nexpected: {expected}")
    if arguments.check:
        return

    board = arguments.submissions / "leaderboard.csv"
    sha256 = sha256_of(path)
    before = [entry for entry in read_leaderboard(board) if entry.sha256 == sha256]
    if arguments.again or not before:
        entry = upload(run.name, path, log_loss, arguments.message)
        write_entry(board, entry)
    else:
        entry = before[-1]
        if arguments.message and entry.message != described(arguments.message, entry.submitted):
            print(f"note: --message is not used: the file is at Kaggle already, as {entry.message!r} (see --again)")
        if entry.finished:
            print(f"submitted before, at {entry.submitted}: {entry.scores}. Nothing to do (--again uploads it again).")
            return
    print(f"submitted at {entry.submitted}; waiting for the score")
    entry = wait_for_score(entry, 60 * (15 if arguments.wait is None else arguments.wait))
    write_entry(board, entry)
    print(f"{entry.scores}\n{board}")


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


def estimate(run: RunFolder, path: Path) -> tuple[str, str]:
    """What to expect of a submission, by the record of the run's blend.

    Returns:
        Words, and the log loss out of fold; empty where nothing is known of this file.

    Raises:
        UserError: the file's content changed since the blend, but not its time of change: the disk corrupted it.
    """
    from ensemble.blend_run import RECORD

    if not (run.ensemble / RECORD).is_file():
        return "unknown, since the run has no blend (python -m ensemble.blend)", ""
    blend, status, sha256 = read_record(run.ensemble / RECORD), path.stat(), sha256_of(path)
    stamps = blend["outputs"].values()
    words = (
        f"log loss about {blend['nested_log_loss']:.4f}, accuracy {blend['nested_accuracy']:.1%}: out of fold, on "
        f"{blend['images']:,} images of {blend['drivers']} drivers"
    )
    if any(stamp["sha256"] == sha256 for stamp in stamps):
        return words, str(blend["nested_log_loss"])
    if any((stamp["size"], stamp["mtime_ns"]) == (status.st_size, status.st_mtime_ns) for stamp in stamps):
        raise UserError(f"{path} is corrupted: its checksum is not that of the blend. Blend again to replace it.")
    return f"{words}; but the last blend of this run wrote another file than this", ""


def upload(run: str, path: Path, log_loss: str, message: str | None) -> Entry:
    """Uploads a submission; returns its entry of the leaderboard, without scores.

    Raises:
        UserError: whatever keeps it from Kaggle.
    """
    submitted = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    promised = f", out of fold {float(log_loss):.4f}" if log_loss else ""
    description = described(message or run + promised, submitted)
    words = ("competitions", "submit", "-q", SLUG, "-f", str(path), "-m", description)
    run_client(*words, what="the submission", browser=f"Or upload {path} in a browser: {PAGE}/submit")
    return Entry(submitted, run, sha256_of(path), log_loss, description)


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


if __name__ == "__main__":
    run_command(main)
