"""What each member adds to a blend: its nested loss as members are added one at a time, against hours of training.

    python -m benchmarks.members --run strong --data DIR                        in the order of the names
    python -m benchmarks.members --run strong --data DIR --models "A B C"       in this order
    python -m benchmarks.members --run strong --data DIR --similar 3 6 12 20    so many similar members

With --labels of the test images also the loss there. Similar members are the run's own, in turn, with normal noise of
`NOISE` in their log-probabilities: what another seed of the same network is like, at its worst.
"""

import dataclasses
from pathlib import Path

import numpy as np

from benchmarks.common import machine, predictions_of, run_parser
from common.errors import run_command
from common.files import read_json
from common.metric import floored, log_loss
from common.run_folder import RunFolder
from common.tables import class_numbers, read_labels
from ensemble import Options
from ensemble.result import BlendResult, Predictions, blended

NOISE = 0.5  # nats


def main() -> None:
    command = run_parser(__doc__)
    command.add_argument("--labels", type=Path, metavar="FILE", help="of the test images")
    command.add_argument("--similar", type=int, nargs="+", default=[], metavar="N", help="so many similar members")
    arguments = command.parse_args()
    print(machine())
    predictions = predictions_of(arguments)
    labels = None
    if arguments.labels:
        known = read_labels(arguments.labels, predictions.test_images, "the test set")
        labels = class_numbers(known["classname"])
    if arguments.similar:
        for count in arguments.similar:
            print(line(f"{count} similar members", blended(similar(predictions, count), Options()), labels), flush=True)
        return
    spent = hours(RunFolder.of(arguments.run, arguments.runs))
    for count, name in enumerate(predictions.names, 1):
        result = blended(of(predictions, list(range(count))), Options())
        so_far = sum(spent.get(one, 0.0) for one in predictions.names[:count])
        print(line(f"+ {name}", result, labels), f"{so_far:.2f} h", flush=True)


def of(predictions: Predictions, places: list[int]) -> Predictions:
    """Some of the members."""
    names = tuple(predictions.names[place] for place in places)
    return dataclasses.replace(
        predictions,
        names=names,
        out_of_fold=predictions.out_of_fold[places],
        test=predictions.test[places],
        scales=tuple(predictions.scales[place] for place in places),
        spaces=tuple(space for space in predictions.spaces if space.name in names),
    )


def similar(predictions: Predictions, count: int) -> Predictions:
    """So many members, each one of the given ones with noise of its own; the first are the given ones."""
    own = len(predictions.names)
    found = of(predictions, [number % own for number in range(count)])
    random = np.random.default_rng(0)
    for table in (found.out_of_fold, found.test):
        for number in range(own, count):
            logarithms = np.log(floored(table[number])) + NOISE * random.standard_normal(table[number].shape)
            table[number] = np.exp(logarithms - np.logaddexp.reduce(logarithms, axis=1, keepdims=True))
    names = tuple(f"{name} {number}" for number, name in enumerate(found.names))
    return dataclasses.replace(found, names=names, spaces=predictions.spaces)


def hours(run: RunFolder) -> dict[str, float]:
    """Of each model, with its folds side by side as they were."""
    found: dict[str, float] = {}
    for row in read_json(run.durations) if run.durations.is_file() else []:
        at_a_time = int(str(row["on"]).partition(" x ")[0])
        found[row["model"]] = found.get(row["model"], 0.0) + row["seconds"] / at_a_time / 3600
    return found


def line(title: str, result: BlendResult, labels: np.ndarray | None) -> str:
    """Nested losses with the prior and after all steps, and those on the test set, each as clipped."""
    truth, nested = result.predictions.labels, result.nested
    losses = [log_loss(nested.steps["prior"], truth), log_loss(nested.final, truth)]
    text = f"{title:28}out of fold {losses[0]:.4f}, with clusters and neighbours {losses[1]:.4f}"
    if labels is not None:
        text += f"; test {log_loss(result.test_steps['prior'], labels):.4f}, {log_loss(result.test, labels):.4f}"
    return f"{text}; {result.final.method.name}"


if __name__ == "__main__":
    run_command(main)
