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
from pathlib import Path

from common.competition import COMPLETE_TEST_IMAGES, SAMPLE_SUBMISSION, SLUG
from common.errors import UserError, run_command
from common.files import locked, read_record, read_rows, sha256_of, write_rows
from common.kaggle_client import PAGE, run_client
from common.run_folder import RUNS, SUBMISSIONS, RunFolder
from common.settings import CommandLine, number

ASK_EVERY = 5.0  # seconds
# Of leaderboard.csv: the time in UTC, log losses, and the message by which Kaggle's list is searched. Kaggle's losses,
# on 31 % and 69 % of the test images, are empty until they are known.
COLUMNS = ("submitted", "run", "sha256", "out_of_fold", "message", "public", "private")
Entry = dict[str, str]


def read_leaderboard(path: Path) -> list[Entry]:
    """The submissions so far, in their order."""
    if not path.exists():
        return []
    header, rows = read_rows(path, "the leaderboard")
    if header != list(COLUMNS):
        raise UserError(f"{path}: expected the columns {','.join(COLUMNS)}, found {','.join(header)}. Move it away.")
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows]


def write_entry(path: Path, entry: Entry) -> None:
    """Adds an entry, or puts it in the place of the one that was submitted with the same message."""
    with locked(path.with_name(f".{path.name}.lock"), f"{path} is being written", wait=True):
        entries = {one["message"]: one for one in [*read_leaderboard(path), entry]}
        write_rows(path, COLUMNS, [list(one.values()) for one in entries.values()])


def scores(entry: Entry) -> str:
    """The scores of a submission, beside the estimate."""
    estimate = f"; out of fold it was {float(entry['out_of_fold']):.5f}" if entry["out_of_fold"] else ""
    return f"leaderboard: public {entry['public'] or 'unknown'}, private {entry['private'] or 'unknown'}{estimate}"


def main() -> None:
    parser = CommandLine(prog="python -m ensemble.submit", description=__doc__)
    parser.add_argument("run", metavar="NAME", help="the run, as in submissions/NAME.csv")
    parser.add_argument("--runs", type=Path, default=RUNS, metavar="DIR", help="where runs lie [runs]")
    data, lies = "folder with sample_submission.csv, for the order of the rows [found]", "where it lies [submissions]"
    parser.add_argument("--data", type=Path, metavar="DIR", help=data)
    parser.add_argument("--submissions", type=Path, default=SUBMISSIONS, metavar="DIR", help=lies)
    parser.add_argument("--message", metavar="TEXT", help="shown beside the score at Kaggle [the estimate]")
    wait = "longest wait for the score [15 minutes]"
    parser.add_argument("--wait", type=number(0, 1_000_000), default=15, metavar="MIN", help=wait)
    parser.add_argument("--check", action="store_true", help="only validate it and show what to expect")
    parser.add_argument("--again", action="store_true", help="upload although this very file was submitted before")
    arguments = parser.parse_args()

    from preprocessing.dataset import required

    run = RunFolder.of(arguments.run, arguments.runs)
    path = arguments.submissions / f"{run.name}.csv"
    if not path.is_file():
        raise UserError(f"{path}: no such submission. Make it: python -m ensemble.blend --run {run.name}")
    alone = arguments.data and (arguments.data / SAMPLE_SUBMISSION).is_file()
    check(path, (arguments.data if alone else required(arguments.data)) / SAMPLE_SUBMISSION)
    expected, log_loss = estimate(run, path)
    print(f"{path}: valid, {COMPLETE_TEST_IMAGES:,} images\nexpected: {expected}")
    if arguments.check:
        return

    board, sha256 = arguments.submissions / "leaderboard.csv", sha256_of(path)
    before = [entry for entry in read_leaderboard(board) if entry["sha256"] == sha256]
    entry = before[-1] if before and not arguments.again else upload(run.name, path, log_loss, arguments.message)
    when = entry["submitted"]
    if entry["public"] or entry["private"]:
        print(f"submitted before, at {when}: {scores(entry)}. Nothing to do (--again uploads it again).")
        return
    write_entry(board, entry)
    print(f"submitted at {when}; waiting for the score")
    entry = wait_for_score(entry, 60 * arguments.wait)
    write_entry(board, entry)
    print(f"{scores(entry)}\n{board}")


def check(path: Path, sample: Path) -> None:
    """Checks a submission as Kaggle would, and its order, which Kaggle would not, against the sample submission."""
    from common.tables import check_submission, read_sample_images

    images = read_sample_images(sample)
    check_submission(path, images)
    if len(images) != COMPLETE_TEST_IMAGES:
        raise UserError(
            f"{path} is of {len(images):,} images, as {sample} is. Kaggle expects the competition's "
            f"{COMPLETE_TEST_IMAGES:,}: blend a run on the complete data, and name it with --data."
        )


def estimate(run: RunFolder, path: Path) -> tuple[str, str]:
    """What to expect by the record of the run's blend: words, and the log loss out of fold, empty where unknown."""
    from ensemble.blend import RECORD

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
    # Its content changed since the blend, but not its time of change.
    if any((stamp["size"], stamp["mtime_ns"]) == (status.st_size, status.st_mtime_ns) for stamp in stamps):
        raise UserError(f"{path} is corrupted: its checksum is not that of the blend. Blend again to replace it.")
    return f"{words}; but the last blend of this run wrote another file than this", ""


def upload(run: str, path: Path, log_loss: str, message: str | None) -> Entry:
    """Uploads a submission; returns its entry of the leaderboard, without scores."""
    submitted = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    promised = f", out of fold {float(log_loss):.4f}" if log_loss else ""
    described = f"{message or run + promised} ({submitted} UTC)"  # the time makes that of two submissions differ
    words = ("competitions", "submit", "-q", SLUG, "-f", str(path), "-m", described)
    run_client(*words, browser=f"Or upload {path} in a browser: {PAGE}/submit")
    return dict(zip(COLUMNS, (submitted, run, sha256_of(path), log_loss, described, "", ""), strict=True))


def wait_for_score(entry: Entry, longest: float) -> Entry:
    """The entry with its score, which Kaggle is asked for until it is there; a UserError after `longest` seconds."""
    started = time.monotonic()
    while True:
        listed = run_client(
            *("competitions", "submissions", "-q", SLUG, "-v", "--page-size", "50"),
            browser=f"The score is in a browser too: {PAGE}/submissions",
        )
        table = listed[listed.find("\nref,") + 1 :]  # the client may print a warning before it
        rows = csv.DictReader(io.StringIO(table))
        row = next((row for row in rows if row.get("description") == entry["message"]), {})
        status = str(row.get("status", "")).rpartition(".")[2].upper()
        if status == "ERROR":
            raise UserError(f"Kaggle could not score the submission; see {PAGE}/submissions. To try again: --again")
        if status == "COMPLETE":
            public, private = (row[name].replace("None", "") for name in ("publicScore", "privateScore"))
            return entry | {"public": public, "private": private}
        if time.monotonic() - started + ASK_EVERY > longest:
            raise UserError(
                f"no score after {longest / 60:g} minutes. The submission is at Kaggle ({PAGE}/submissions): run the "
                "same command again to go on waiting."
            )
        time.sleep(ASK_EVERY)


if __name__ == "__main__":
    run_command(main)
