"""Renders the demo set: python -m preprocessing.demo --out data_demo"""

import time
from pathlib import Path

from common.competition import held_out_labels_path
from common.errors import UserError, run_command
from common.settings import CommandLine, add_settings, chosen
from preprocessing.demo.contact_sheet import write_contact_sheet
from preprocessing.demo.dataset import DemoSettings, demo_root, ensure_demo, render_demo


def main() -> None:
    """Parses the command line and renders."""
    parser = CommandLine(prog="python -m preprocessing.demo", description=__doc__)
    parser.add_argument("--out", type=Path, metavar="DIR", help="the data root to write; must be new or empty")
    parser.add_argument("--contact-sheet", type=Path, metavar="FILE.jpg", help="write a picture of the ten behaviours")
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="render the standard set there, under its own name, once"
    )
    add_settings(parser, DemoSettings(), "how much")
    arguments = parser.parse_args()
    typed = chosen(arguments, DemoSettings)
    settings = DemoSettings(**typed)
    if arguments.out is None and arguments.contact_sheet is None and arguments.cache is None:
        raise UserError("nothing to do. Expected --out DIR, --cache DIR or --contact-sheet FILE.jpg.")
    if arguments.cache is not None and set(typed) - {"seed"}:
        raise UserError(
            "--cache renders the standard set. Expected no option beside --seed; for other sizes use --out."
        )
    if arguments.contact_sheet is not None:
        write_contact_sheet(arguments.contact_sheet, settings.seed)
        print(f"wrote {arguments.contact_sheet}")
    if arguments.cache is not None:
        start = time.monotonic()
        print(f"synthetic demo set, not photographs: {demo_root(arguments.cache, settings.seed)}", flush=True)
        root = ensure_demo(arguments.cache, settings.seed)
        print(f"ready in {time.monotonic() - start:.0f} s; its test labels: {held_out_labels_path(root)}")
    if arguments.out is not None:
        start = time.monotonic()
        render_demo(arguments.out, settings.seed, settings)
        seconds = time.monotonic() - start
        print(f"rendered {arguments.out} in {seconds:.0f} s; its test labels: {held_out_labels_path(arguments.out)}")


if __name__ == "__main__":
    run_command(main)
