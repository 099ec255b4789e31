"""The file that `tools.experiments` reads: named settings, the rounds that they go through, a space to search. TOML.

    architecture = "inception_v3"      # of all experiments that name no other
    reference = "default"              # the one that the others are compared with
    settings = { batch_size = 16 }     # of all experiments, where they say nothing else

    [[rounds]]                         # every experiment; cheap
    folds = [0, 1]                     # none is all
    seeds = [0]
    keep = 0.5                         # the better half goes on, the reference always
    settings = { image_size = "120x160", epochs = 2 }

    [[rounds]]                         # those that are left

    [experiments.default]              # a name, and the settings that differ

    [experiments.more_dropout]
    dropout = 0.7

    [experiments.most_dropout]
    like = "more_dropout"              # starts from another's settings
    dropout = 0.8

    [search]
    trials = 20
    like = "default"
    folds = [0, 1]
    settings = { image_size = "120x160" }
    space.learning_rate = { from = 1e-5, to = 1e-4, log = true }
    space.schedule = ["cosine", "constant"]

A setting is an option of `python models/ARCHITECTURE.py` with '_' for '-'. With `classifier` (logistic or svm) an
experiment is one of `python models/bottleneck.py`. What an experiment says itself wins over what its round or the
search says, and that over the settings of all: one that is about larger images has them in the cheap round too.
"""

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.run_folder import checked_name
from common.settings import checked, nearest
from models.finetuning import architecture as zoo
from models.finetuning.architecture import Architecture
from models.finetuning.bottleneck.command import Bottleneck
from models.finetuning.recipe import Recipe
from preprocessing.augmentation_settings import Augmentation

KEYS = {
    "": ("architecture", "reference", "settings", "rounds", "experiments", "search"),
    "rounds": ("folds", "seeds", "keep", "margin", "settings"),
    "search": ("trials", "like", "folds", "settings", "space"),
    "range": ("from", "to", "log"),
}


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A name and the settings that make it.

    Attributes:
        classifier: of bottleneck features; '' is fine-tuning.
        settings: those that the file gives, held to the types and ranges of the options.
        own: names of those that it gives itself.
    """

    name: str
    architecture: Architecture
    classifier: str
    settings: Mapping[str, Any]
    own: frozenset[str] = frozenset()

    def changed(self, settings: Mapping[str, Any]) -> "Experiment":
        """With other settings, which win."""
        return dataclasses.replace(self, settings={**self.settings, **_checked(self, settings)})

    def under(self, settings: Mapping[str, Any]) -> "Experiment":
        """With settings of a round, over which its own win. A classifier has only some of them."""
        there = _defaults(self) if self.classifier else settings
        return self.changed({name: x for name, x in settings.items() if name in there and name not in self.own})


@dataclasses.dataclass(frozen=True)
class Round:
    """What every experiment that is left goes through.

    Attributes:
        folds: numbers; none is all.
        seeds: each experiment runs once with each.
        keep: share of the experiments that go on, at most.
        margin: one that is worse than the reference by more than so many standard errors does not go on.
        settings: of the round.
    """

    folds: tuple[int, ...] = ()
    seeds: tuple[int, ...] = ()
    keep: float = 1.0
    margin: float = 1.0
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from one to another, both included; whole ones where the setting is; evenly in log space or not."""

    least: float
    most: float
    log: bool
    whole: bool


@dataclasses.dataclass(frozen=True)
class Search:
    """A space of settings to search.

    Attributes:
        trials: how many points of it.
        like: the experiment whose settings the others are.
        space: by setting, a range of numbers or the values to choose from.
    """

    trials: int
    like: str
    folds: tuple[int, ...]
    settings: Mapping[str, Any]
    space: Mapping[str, Range | tuple[Any, ...]]


@dataclasses.dataclass(frozen=True)
class Plan:
    """The file's content, checked."""

    reference: str
    experiments: Mapping[str, Experiment]
    rounds: tuple[Round, ...]
    search: Search | None


def read_plan(path: Path) -> Plan:
    """Reads and checks the file.

    Raises:
        UserError: it cannot be read; an unknown key, setting, architecture or name; a value that does not fit.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a list of experiments: {error}. Expected TOML.") from error
    try:
        return _plan(content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _plan(content: dict[str, Any]) -> Plan:
    _known(content, "", "the file")
    tables = _table(content, "experiments")
    if not tables:
        raise UserError("it has no [experiments.NAME]. See the docstring of tools/experiment_file.py for an example.")
    experiments: dict[str, Experiment] = {}
    for name in tables:
        checked_name(name, "--model-name")
        own = _inherited(tables, name)
        kind = str(own.pop("architecture", content.get("architecture", "")))
        if not kind:
            raise UserError(f'experiment {name}: no architecture. Add architecture = "..." here or at the top.')
        bare = Experiment(name, zoo.find(kind), str(own.get("classifier", "")), {}, frozenset(own))
        experiments[name] = bare.changed(own).under(_table(content, "settings"))
    reference = str(content.get("reference", next(iter(tables))))
    _among(reference, experiments, "reference")
    rounds = tuple(_round(table) for table in content.get("rounds", [{}]))
    for experiment in experiments.values():
        for one in rounds:
            experiment.under(one.settings)
    search = _search(content["search"], experiments, reference) if "search" in content else None
    return Plan(reference, experiments, rounds, search)


def _inherited(tables: Mapping[str, Any], name: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """The settings of an experiment over those of what it is like."""
    own = _table(tables, name)
    like = own.pop("like", None)
    if like is None:
        return own
    _among(str(like), tables, f"experiment {name}: like")
    if like in (name, *seen):
        raise UserError(f"experiment {name}: like = {like!r} leads back to itself.")
    return {**_inherited(tables, str(like), (*seen, name)), **own}


def _round(table: Any) -> Round:
    _known(table, "rounds", "[[rounds]]")
    numbers = {name: _share(table[name], name) for name in ("keep", "margin") if name in table}
    if numbers.get("keep", 1.0) > 1:
        raise UserError(f"[[rounds]] keep = {numbers['keep']:g}: expected a share from 0 to 1.")
    lists = {name: _whole_numbers(table[name], name) for name in ("folds", "seeds") if name in table}
    return dataclasses.replace(Round(settings=_table(table, "settings")), **lists, **numbers)  # type: ignore[arg-type]


def _search(table: Any, experiments: Mapping[str, Experiment], reference: str) -> Search:
    _known(table, "search", "[search]")
    like = str(table.get("like", reference))
    _among(like, experiments, "[search] like")
    base = experiments[like].under(_table(table, "settings"))
    defaults = _defaults(base)
    space: dict[str, Range | tuple[Any, ...]] = {}
    for name, values in _table(table, "space").items():
        _among(name, defaults, "[search.space]")
        if isinstance(values, list):
            space[name] = tuple(base.changed({name: value}).settings[name] for value in values)
        elif isinstance(values, dict) and {"from", "to"} <= set(values):
            _known(values, "range", f"[search.space] {name}")
            ends = [base.changed({name: values[end]}).settings[name] for end in ("from", "to")]
            if isinstance(ends[0], bool) or not isinstance(ends[0], (int, float)) or ends[0] >= ends[1]:
                raise UserError(f"[search.space] {name}: expected two numbers, from the smaller one to the larger one.")
            log = bool(values.get("log", False))
            if log and ends[0] <= 0:
                raise UserError(f"[search.space] {name}: with log = true, expected a number above 0 to start from.")
            space[name] = Range(ends[0], ends[1], log, isinstance(defaults[name], int))
        else:
            raise UserError(f"[search.space] {name}: expected a list of values, or {{ from = ..., to = ... }}.")
    if not space:
        raise UserError("[search.space] names no setting to search.")
    (trials,) = _whole_numbers([table.get("trials", 20)], "trials")
    return Search(trials, like, _whole_numbers(table.get("folds", []), "folds"), _table(table, "settings"), space)


def _checked(experiment: Experiment, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of an experiment by the names of their options, of the right types."""
    defaults = _defaults(experiment)
    found: dict[str, Any] = {}
    try:
        for name in settings:
            if name not in defaults:
                script = "bottleneck" if experiment.classifier else experiment.architecture.name
                hint = nearest(name, list(defaults)) or "."
                raise UserError(f"unknown setting {name!r}{hint} All: python models/{script}.py --help")
        for part in (Bottleneck(),) if experiment.classifier else (Recipe(), Augmentation()):
            names = {field.name for field in dataclasses.fields(part)}
            found |= checked(part, {name: value for name, value in settings.items() if name in names})
    except UserError as error:
        raise UserError(f"experiment {experiment.name}: {error}") from None
    return found


def _defaults(experiment: Experiment) -> dict[str, Any]:
    """Every setting that the experiment may have, with its default."""
    parts = (Bottleneck(),) if experiment.classifier else (Recipe(), Augmentation())
    return {field.name: getattr(part, field.name) for part in parts for field in dataclasses.fields(part)}


def _table(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = content.get(name, {})
    if not isinstance(found, dict):
        raise UserError(f"{name}: expected a table, found {found!r}.")
    return dict(found)


def _known(table: Any, kind: str, where: str) -> None:
    if not isinstance(table, dict):
        raise UserError(f"{where}: expected a table, found {table!r}.")
    for key in table:
        if key not in KEYS[kind]:
            hint = nearest(key, KEYS[kind]) or "."
            raise UserError(f"{where}: unknown key {key!r}{hint} There are: {', '.join(KEYS[kind])}.")


def _among(name: str, names: Mapping[str, Any], what: str) -> None:
    if name not in names:
        raise UserError(f"{what} {name!r} is not there{nearest(name, list(names)) or '.'}")


def _whole_numbers(values: Any, what: str) -> tuple[int, ...]:
    good = isinstance(values, list) and all(isinstance(x, int) and not isinstance(x, bool) and x >= 0 for x in values)
    if not good:
        raise UserError(f"{what} = {values!r}: expected whole numbers from 0, such as [0, 1].")
    return tuple(dict.fromkeys(values))


def _share(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise UserError(f"[[rounds]] {what} = {value!r}: expected a number from 0.")
    return float(value)
