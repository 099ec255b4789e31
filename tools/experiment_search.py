"""The search of `tools.experiments`: Optuna proposes settings, held-out drivers judge, poor ones end after a fold.

The study is not kept: its sampler has a seed, and finished pieces are skipped, so that the same command tells it the
same again within seconds and goes on from there. A trial is the model `search.HASH` of its settings.
"""

import argparse
import hashlib
import importlib.util
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from common.errors import UserError
from tools import experiment_rounds as rounds
from tools.experiment_file import Plan, Range, Search
from tools.experiment_results import FAILED, PRUNED, Judged, as_text, judge, results_of, write_table

TITLE = "search"
TABLE = "search.csv"
TRIALS_BEFORE_PRUNING = 4
DIGITS = 3  # significant ones of a number that is not whole

Space = Mapping[str, Range | tuple[Any, ...]]


def search(plan: Plan, arguments: argparse.Namespace) -> None:
    """Runs the file's search and writes search.csv, with its base as the reference.

    Raises:
        UserError: the file has no [search], Optuna is not installed, or the base cannot be trained.
    """
    if plan.search is None:
        raise UserError(f"{arguments.file} has no [search]. See the docstring of tools/experiment_file.py.")
    check_installed()
    asked: Search = plan.search
    base = plan.experiments[asked.like].under(asked.settings)
    rounds.piece_of(base, arguments, asked.like, 0)
    bench = rounds.open_bench(arguments)
    images = bench.images(asked.folds)
    folds = [int(fold) for fold in sorted(images["fold"].unique())]
    reference = rounds.model_name(f"search.{asked.like}", "", arguments.seed)
    judged: dict[str, Judged | None] = {}
    words = {reference: ", ".join(rounds.as_words(base, arguments))}
    ended: dict[str, str] = {}
    pruned: dict[str, str] = {}  # the trial that has not met all folds: it is pruned if another begins

    def trained(name: str, settings: Mapping[str, Any], fold: int) -> float | None:
        """Mean log loss over the folds up to this one; nan where it fails, None where a report finds it unfinished."""
        pruned.clear()
        experiment = base.changed(settings)
        words[name] = ", ".join(rounds.as_words(experiment, arguments))
        try:
            rounds.piece_of(experiment, arguments, name, arguments.seed)
        except UserError as error:  # of some points of a space, settings contradict each other
            print(f"{name}: {error}")
            ended[name] = FAILED
            return math.nan
        if rounds.unfinished(bench, experiment, name, arguments.seed, [fold]):
            if not arguments.report:
                rounds.require_weights([base], arguments)
                rounds.train(bench, experiment, name, arguments.seed, [fold])
            elif not rounds.gave_up(bench.run, name, [fold]):
                return None
        part = bench.images(folds[: folds.index(fold) + 1])
        found = judge(bench.run, [name], part)
        if found is None:
            ended[name] = FAILED
            return math.nan
        if fold == folds[-1]:
            judged[name] = found
        else:
            pruned[name] = f"{PRUNED} at {found.log_loss:.4f} after fold {fold}"
        write_table(bench.run / TABLE, results_of(TITLE, judged, reference, images, 1, words, ended))
        return found.log_loss

    if any(loss is None or math.isnan(loss) for loss in (trained(reference, {}, fold) for fold in folds)):
        raise UserError(f"{reference} did not finish: there is nothing to compare with. No trial was started.")

    def evaluate(settings: Mapping[str, Any], fold: int) -> float | None:
        name = f"search.{_digest(base.changed(settings).settings, arguments.seed)}"
        judged.setdefault(name, None)
        if fold == folds[0]:
            ended.update(pruned)
        return trained(name, settings, fold)

    best = explore(asked.space, asked.trials, folds, arguments.seed, evaluate)
    ended.update(pruned)
    results = results_of(TITLE, judged, reference, images, 1, words, ended)
    write_table(bench.run / TABLE, results)
    print(f"\n{as_text(results)}\n")
    words_of_best = ", ".join(rounds.as_words(base.changed(best), arguments)[1:]) if best else ""
    print(f"best of {asked.trials} trials: {words_of_best}" if best else "no trial finished")
    print(bench.run / TABLE)


def check_installed() -> None:
    """Makes sure, without importing it, that Optuna is there.

    Raises:
        UserError: it is not; names the command that installs it.
    """
    if importlib.util.find_spec("optuna") is None:
        raise UserError(
            "--search needs Optuna, which is not installed. .venv/bin/pip install -r requirements-search.txt"
        )


def explore(
    space: Space, trials: int, folds: list[int], seed: int, evaluate: Callable[[Mapping[str, Any], int], float | None]
) -> dict[str, Any]:
    """Searches a space: a tree-structured Parzen estimator (Bergstra et al. 2011) proposes, a median rule prunes.

    A trial whose loss after some folds is above the median of the earlier ones after as many ends there.

    Args:
        space: by setting, what it may be.
        folds: in which order each trial meets them.
        evaluate: (settings, fold) -> mean log loss over the folds up to this one; nan ends the trial, None the search.

    Returns:
        The settings of the least loss over all folds; none where no trial reached them.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def objective(trial: Any) -> float:
        settings = {name: suggested(trial, name, values) for name, values in space.items()}
        loss = math.nan
        for step, fold in enumerate(folds):
            found = evaluate(settings, fold)
            if found is None:
                trial.study.stop()
            if found is None or math.isnan(found):
                raise optuna.TrialPruned
            loss = found
            trial.report(loss, step)
            if step + 1 < len(folds) and trial.should_prune():
                raise optuna.TrialPruned
        trial.set_user_attr("settings", settings)
        return loss

    study = optuna.create_study(
        direction="minimize",
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=TRIALS_BEFORE_PRUNING, n_warmup_steps=0),
    )
    study.optimize(objective, n_trials=trials)
    finished = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
    return dict(min(finished, key=lambda trial: trial.values[0]).user_attrs["settings"]) if finished else {}


def suggested(trial: Any, name: str, values: Range | tuple[Any, ...]) -> Any:
    """What a trial takes for a setting; numbers with few digits, so that a command line can say them."""
    if isinstance(values, Range):
        if values.whole:
            return trial.suggest_int(name, int(values.least), int(values.most), log=values.log)
        number = trial.suggest_float(name, values.least, values.most, log=values.log)
        return min(values.most, max(values.least, float(f"{number:.{DIGITS}g}")))
    return values[trial.suggest_categorical(name, list(range(len(values))))]


def _digest(settings: Mapping[str, Any], seed: int) -> str:
    text = json.dumps({name: str(value) for name, value in sorted(settings.items())}) + f" {seed}"
    return hashlib.sha256(text.encode()).hexdigest()[:10]
