"""Compares the models of runs: what differs in their settings, and what came of it on drivers that they never saw.

    python -m tools.compare runs/*
    python -m tools.compare runs/trial-1 runs/trial-2 --out table.csv --figure curves.png

A row for each model of each run and for each blend, the least out-of-fold log loss first. '±' is one standard error
over drivers, since the images of one driver are alike. 'behind' is the loss beyond that of the first row on the images
that both have, with the standard error of that difference: less than twice its error may be chance.
"""

from pathlib import Path

from common.errors import UserError, run_command
from common.files import as_cell, written_whole
from common.run_folder import CACHE
from common.settings import CommandLine


def command_line() -> CommandLine:
    """The options of this command."""
    parser = CommandLine(prog="python -m tools.compare", description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of runs, such as runs/*")
    parser.add_argument(
        "--out", type=Path, default=CACHE / "comparison.csv", metavar="CSV", help="the table [comparison.csv in cache]"
    )
    parser.add_argument(
        "--figure",
        type=Path,
        default=CACHE / "comparison.png",
        metavar="FILE",
        help="the learning curves, .png, .svg or .pdf [comparison.png in cache]",
    )
    return parser


def main() -> None:
    arguments = command_line().parse_args()
    if arguments.figure.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UserError(f"--figure {arguments.figure}: expected the name of a picture, .png, .svg or .pdf.")

    from tools import comparison

    rows = comparison.read_rows(arguments.runs)
    table = comparison.make_table(rows)
    print(comparison.as_text(table))
    for remark in comparison.remarks(rows):
        print(remark)
    with written_whole(arguments.out) as temporary:
        safe = table.map(lambda cell: as_cell(cell) if isinstance(cell, str) else cell)
        safe.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
    drawn = comparison.draw_curves(rows, arguments.figure)
    print(f"\n{arguments.out}" + (f"\n{arguments.figure}" if drawn else "; no curves: no model trained an epoch"))


if __name__ == "__main__":
    run_command(main)
