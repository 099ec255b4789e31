"""Renders the demo set: python -m preprocessing.demo --out data_demo"""

import time
from pathlib import Path

from common.competition import held_out_labels_path
from common.errors import run_command
from common.settings import CommandLine, add_settings, chosen
from preprocessing.demo import DemoSettings, render_demo


def main() -> None:
    parser = CommandLine(prog="python -m preprocessing.demo", description=__doc__)
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help="the folder to write; new or empty")
    add_settings(parser, DemoSettings(), "how much")
    arguments = parser.parse_args()
    started = time.monotonic()
    render_demo(arguments.out, DemoSettings(**chosen(arguments, DemoSettings)))
    seconds = time.monotonic() - started
    print(f"rendered {arguments.out} in {seconds:.0f} s; its test labels: {held_out_labels_path(arguments.out)}")


if __name__ == "__main__":
    run_command(main)
