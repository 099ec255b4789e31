"""Says which models of an unfinished run can be blended: those with a fold that most of them have finished.

    python -m tools.blendable --run NAME --models "vgg16 resnet50"

A blend is judged on images that all its models predicted out of fold. Prints their names, for run_all.sh.
"""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError, run_command
from common.finished import FINISHED
from common.run_folder import RUNS, run_folder
from common.settings import CommandLine, names_in


def blendable(run: Path, models: Sequence[str]) -> list[str]:
    """Those models that have finished the fold that most of them have finished; fold_all judges nobody.

    Raises:
        UserError: none has finished any.
    """
    folds = {name: {path.parent.name for path in (run / name).glob(f"fold_[0-9]*/{FINISHED}")} for name in models}
    counts = Counter(fold for own in folds.values() for fold in sorted(own))
    if not counts:
        raise UserError(f"{run}: no fold of {', '.join(models)} is finished, so there is nothing to blend yet.")
    common = min(counts, key=lambda fold: (-counts[fold], fold))
    return [name for name in models if common in folds[name]]


def main() -> None:
    parser = CommandLine(prog="python -m tools.blendable", description=__doc__)
    parser.add_argument("--run", required=True, metavar="NAME", help="the run")
    parser.add_argument("--runs", type=Path, default=RUNS, metavar="DIR", help="where runs lie [runs]")
    parser.add_argument("--models", type=names_in, required=True, metavar='"A B"', help="architectures")
    arguments = parser.parse_args()
    models = arguments.models
    found = blendable(run_folder(arguments.run, arguments.runs), models)
    left_out = [name for name in models if name not in found]
    if left_out:
        print(f"not in the blend yet: {', '.join(left_out)}", file=sys.stderr)
    print(" ".join(found))


if __name__ == "__main__":
    run_command(main)
