"""Compares the models of runs: what differs in their settings, and what came of it on drivers that they never saw.

    python -m tools.compare runs/*
    python -m tools.compare runs/trial-1 runs/trial-2 --html comparison.html

A row for each model of each run and for each blend, the least out-of-fold log loss first. '±' is one standard error
over drivers, since the images of one driver are alike. 'behind' is the loss beyond that of the first row on the images
that both have, with the standard error of that difference: less than twice its error may be chance.
"""

from pathlib import Path

from common.errors import run_command
from common.files import as_cell, written_whole
from common.run_folder import CACHE, RunFolder
from common.settings import CommandLine


def command_line() -> CommandLine:
    """The options of this command."""
    parser = CommandLine(prog="python -m tools.compare", description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of runs, such as runs/*")
    parser.add_argument(
        "--out", type=Path, default=CACHE / "comparison.csv", metavar="CSV", help="the table [comparison.csv in cache]"
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="the reports of the runs side by side, as one page")
    parser.add_argument(
        "--no-photographs", dest="photographs", action="store_false", help="file names instead of photographs"
    )
    return parser


def main() -> None:
    arguments = command_line().parse_args()

    from tools import comparison, report

    rows = comparison.read_rows(arguments.runs)
    table, remarks = comparison.make_table(rows), comparison.remarks(rows)
    print("\n".join([comparison.as_text(table), *remarks]))
    with written_whole(arguments.out) as temporary:
        safe = table.map(lambda cell: as_cell(cell) if isinstance(cell, str) else cell)
        safe.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
    if arguments.html:
        headers, lines = comparison.cells(table)
        runs = [RunFolder(path.resolve()) for path in dict.fromkeys(arguments.runs) if path.is_dir()]
        requests = [report.Request(run, photographs=arguments.photographs) for run in runs]
        compared = {"headers": headers, "rows": lines, "remarks": remarks}
        report.write_comparison(arguments.html, requests, compared)
    print("\n" + "\n".join(map(str, filter(None, [arguments.out, arguments.html]))))


if __name__ == "__main__":
    run_command(main)
