"""Holds every output of a run against the checksums that were written with it; nothing is trained.

    python -m tools.verify --run full

A piece in which something is damaged is taken for unfinished from then on: the command that trained it makes it again.
"""

import json
import sys
from pathlib import Path
from typing import Any

from common.errors import UserError, run_command
from common.files import UnreadableError, read_json, sha256_of
from common.finished import FINISHED, damaged_outputs, set_aside, trained_on_other_folds
from common.run_folder import RUNS
from common.settings import CommandLine
from tools.finished import existing_run

BLENDED = (".csv", "_features.npy")  # endings of the outputs that a blend reads


def damaged_pieces(run: Path, only_for_blend: bool = False) -> list[str]:
    """A line for each finished piece of a run in which something is damaged; those are unfinished from then on.

    One whose record cannot be read at the moment has a line too, and stays as it is.

    Args:
        only_for_blend: leave out pieces that the last blend read whole, if nothing has been written since.
    """
    blended = _inputs_of_blend(run) if only_for_blend else {}
    lines = []
    for folder in sorted(path.parent for path in run.glob(f"*/fold_*/{FINISHED}")):
        if blended and _read_before(run, folder, blended):
            continue
        try:
            damaged = damaged_outputs(folder)
        except UnreadableError as error:
            lines.append(str(error))
            continue
        if damaged:
            lines.append(f"{', '.join(damaged)} in {folder}: damaged or missing. {set_aside(folder)}")
    return lines


def _inputs_of_blend(run: Path) -> dict[str, Any]:
    try:
        return dict(read_json(run / "ensemble" / "blend.json")["inputs"])
    except (UserError, KeyError, TypeError, ValueError):
        return {}


def _read_before(run: Path, folder: Path, blended: dict[str, Any]) -> bool:
    """Whether the last blend read what there is to read of a piece, with the checksums of finished.json."""
    try:
        sums = json.loads((folder / FINISHED).read_text(encoding="utf-8"))["sha256"]
        for name in (name for name in sums if name.endswith(BLENDED) and name.startswith(("out_of_fold", "test"))):
            stamp, status = blended[str((folder / name).relative_to(run))], (folder / name).stat()
            if (stamp["size"], stamp["mtime_ns"]) != (status.st_size, status.st_mtime_ns):
                return False
            if stamp["sha256"] != sums[name]:
                return False
    except (OSError, KeyError, TypeError, ValueError):
        return False
    return True


def damaged_blend(run: Path) -> list[str]:
    """The outputs of a run's blend that are not as they were written, the submission among them."""
    record = run / "ensemble" / "blend.json"
    if not record.is_file():
        return []
    again = f"python -m ensemble.blend --run {run.name}" + (f" --runs {run.parent}" if run.parent != RUNS else "")
    try:
        content = read_json(record)
        if "tables" in content:  # those of --predictions
            again = "the same command as before, with --predictions"
        else:
            again += f' --models "{" ".join(member["name"] for member in content["members"])}"'
        sums = {name: stamp["sha256"] for name, stamp in dict(content["outputs"]).items()}
        paths = {name: (record.parent / name if "/" not in name else Path(name)) for name in sums}
        bad = [str(path) for name, path in paths.items() if not path.is_file() or sha256_of(path) != sums[name]]
    except (UserError, OSError, KeyError, TypeError, ValueError) as error:
        return [f"{record}: damaged ({error}). Blend again: {again}"]
    return [f"{path}: damaged or missing. Blend again: {again}" for path in bad]


def main() -> None:
    parser = CommandLine(prog="python -m tools.verify", description=__doc__)
    parser.add_argument("--run", required=True, metavar="NAME", help="the run to verify")
    parser.add_argument("--runs", type=Path, default=RUNS, metavar="DIR", help="folder of all runs [runs]")
    arguments = parser.parse_args()
    run = existing_run(arguments.run, arguments.runs)
    pieces = len(list(run.glob(f"*/fold_*/{FINISHED}")))

    from common.run_folder import folds_path
    from preprocessing.folds import read_folds

    read_folds(folds_path(run))
    others = [path.parent for path in run.glob(f"*/fold_*/{FINISHED}")]
    folds_sha256 = sha256_of(folds_path(run))
    others = [folder for folder in others if trained_on_other_folds(folder, folds_sha256)]
    lines = [f"{folder}: trained on other folds than {folds_path(run)} has now." for folder in sorted(others)]
    lines += damaged_pieces(run) + damaged_blend(run)
    if lines:
        raise UserError("\n".join(lines))
    print(f"{run}: {pieces} finished pieces, the fold table and the blend are as they were written", file=sys.stderr)


if __name__ == "__main__":
    run_command(main)
