"""The TOML file that `python -m tools.experiments` reads: named settings, and optionally a space to search.

    architecture = "inception_v3"      # of every experiment that names no other
    reference = "default"              # the others are compared with it [the first]
    folds = [0, 1]                     # [all]
    seeds = [0]                        # each experiment is trained once with each [--seed]
    settings = { batch_size = 16 }     # of all experiments; an experiment's own settings win
    trials = 20                        # of --search [20]

    [experiments.default]              # a name, and the settings that differ

    [experiments.more_dropout]
    dropout = 0.7

    [experiments.features]
    classifier = "logistic"

    [search]                           # --search changes these settings of the reference
    learning_rate = { from = 1e-5, to = 1e-4, log = true }
    schedule = ["cosine", "constant"]

A setting is an option of `python models/ARCHITECTURE.py` with '_' for '-'. With `classifier` (logistic or svm) an
experiment is one of `python models/bottleneck.py`; of the common settings it takes those that this script has.
"""

import dataclasses
import tomllib
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.run_folder import checked_name
from common.settings import nearest, word
from models.finetuning import architecture as zoo
from models.finetuning.architecture import Architecture
from models.finetuning.recipe import Bottleneck, Recipe
from preprocessing.settings import Augmentation

CLASSIFIER = [field.name for field in dataclasses.fields(Bottleneck)]
NETWORK = [field.name for part in (Recipe, Augmentation) for field in dataclasses.fields(part)]
KINDS = {str: "text", int: "a whole number", list: "a list", dict: "a table"}


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """A name and its settings, with the values that the file has."""

    name: str
    architecture: Architecture
    settings: dict[str, Any]

    @property
    def is_classifier(self) -> bool:
        """Whether it is a classifier on bottleneck features; otherwise a network is fine-tuned."""
        return "classifier" in self.settings

    def __str__(self) -> str:
        changes = [f"{name.replace('_', ' ')} {word(value)}" for name, value in self.settings.items()]
        return ", ".join([self.architecture.name, *changes])


@dataclasses.dataclass(frozen=True)
class Plan:
    """The keys of the file and their defaults; its tables of experiments become `Experiment`s."""

    architecture: str = ""
    reference: str = ""
    folds: list[int] = dataclasses.field(default_factory=list)
    seeds: list[int] = dataclasses.field(default_factory=list)
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    trials: int = 20
    experiments: dict[str, Any] = dataclasses.field(default_factory=dict)
    search: dict[str, Any] = dataclasses.field(default_factory=dict)


def read_plan(path: Path) -> Plan:
    """Reads the file and checks everything but the values of settings, which the scripts' options check.

    Raises:
        UserError: it cannot be read, a key, setting, architecture or name is unknown, or a value has the wrong type.
    """
    try:
        content, defaults = tomllib.loads(path.read_text(encoding="utf-8")), dataclasses.asdict(Plan())
        require_known(content, defaults, "key")
        for key, value in content.items():
            if type(value) is not type(defaults[key]):
                raise UserError(f"{key} = {value!r}: expected {KINDS[type(defaults[key])]}.")
        plan = Plan(**content)
        require_known(plan.settings, NETWORK + CLASSIFIER, "setting")
        if not all(type(number) is int and number >= 0 for number in plan.folds + plan.seeds):
            raise UserError(f"folds = {plan.folds}, seeds = {plan.seeds}: expected whole numbers, such as [0, 1].")
        if not plan.experiments:
            raise UserError("it has no [experiments.NAME]. The docstring of tools/experiment_file.py has an example.")
        experiments = {name: _experiment(name, own, plan) for name, own in plan.experiments.items()}
        reference = plan.reference or next(iter(experiments))
        require_known([reference], experiments, "reference")
        known = CLASSIFIER if experiments[reference].is_classifier else NETWORK
        require_known(plan.search, known, "setting to search:")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a list of experiments: {error}. Expected TOML.") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return dataclasses.replace(plan, experiments=experiments, reference=reference)


def _experiment(name: str, own: Any, plan: Plan) -> Experiment:
    if not isinstance(own, dict):
        raise UserError(f"experiment {name} = {own!r}: expected a table.")
    settings = {"architecture": plan.architecture} | plan.settings | own
    architecture = zoo.find(str(settings.pop("architecture")))
    known = CLASSIFIER if "classifier" in settings else NETWORK
    require_known(own, ["architecture", *known], f"setting of {name}:")
    found = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items() if key in known}
    return Experiment(checked_name(name, "--model-name"), architecture, found)


def require_known(names: Iterable[str], known: Collection[str], what: str) -> None:
    """Refuses an unknown name, with the nearest known one."""
    for name in names:
        if name not in known:
            hint = nearest(name, list(known)) or f". There are: {', '.join(known)}."
            raise UserError(f"unknown {what} {name!r}{hint}")
