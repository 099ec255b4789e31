"""Configuration is frozen dataclasses, and the command line is derived from them.

A field declared with `setting` becomes `--field-name`, with its default, unit, range and choices in `--help`.
An unknown option, a wrong type or a value out of range is one line that names the nearest right one.
"""

import argparse
import dataclasses
import difflib
import functools
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NoReturn

from common.errors import UserError


@dataclasses.dataclass(frozen=True, order=True)
class ImageSize:
    """Height and width in pixels, written 240x320."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"

    @classmethod
    def parse(cls, text: str) -> "ImageSize":
        """Reads '240x320' (height x width); a ValueError for anything else."""
        match = re.fullmatch(r"0*([1-9][0-9]{0,4})x0*([1-9][0-9]{0,4})", text)
        if not match:
            raise ValueError(f"expected HEIGHTxWIDTH in pixels, such as 240x320, found {text!r}")
        return cls(int(match[1]), int(match[2]))


def setting(
    default: Any,
    help: str,
    *,
    unit: str = "",
    choices: Sequence[str] = (),
    least: float | None = None,
    most: float | None = None,
) -> Any:
    """A field of a configuration dataclass that is also an option on the command line.

    Args:
        default: the value where nothing else is given; its type is the option's type.
        unit: what the number counts ('epochs', 'pixels'), shown beside the default.
        least, most: inclusive bounds of a number.
    """
    metadata = {"help": help, "unit": unit, "choices": tuple(choices), "least": least, "most": most}
    return dataclasses.field(default=default, metadata=metadata)


def add_settings(parser: argparse.ArgumentParser, configuration: Any, title: str) -> None:
    """Adds an option for each `setting` of a dataclass instance, whose values are the defaults shown by --help.

    Options not given stay out of the parsed namespace, so that `chosen` returns only what the user typed.
    """
    group = parser.add_argument_group(title)
    for field in dataclasses.fields(configuration):
        if "help" not in field.metadata:
            continue
        value = getattr(configuration, field.name)
        unit = f" {field.metadata['unit']}" if field.metadata["unit"] else ""
        text = f"{field.metadata['help']} [{word(value)}{unit}]".replace("%", "%%")
        flag = "--" + field.name.replace("_", "-")
        options: dict[str, Any] = {"dest": field.name, "default": argparse.SUPPRESS, "help": text}
        if isinstance(value, bool):
            group.add_argument(flag, action=argparse.BooleanOptionalAction, **options)
        else:
            read, metavar = functools.partial(_read, type(value), field.metadata), _metavar(value, field.metadata)
            group.add_argument(flag, type=read, metavar=metavar, **options)


def chosen(arguments: argparse.Namespace, configuration_class: type) -> dict[str, Any]:
    """The settings of `configuration_class` that were given on the command line."""
    names = {field.name for field in dataclasses.fields(configuration_class) if "help" in field.metadata}
    return {name: value for name, value in vars(arguments).items() if name in names}


def as_options(values: dict[str, Any]) -> list[str]:
    """The command line that gives these settings: {'epochs': 3, 'ema': False} -> ['--epochs', '3', '--no-ema']."""
    options: list[str] = []
    for name, value in values.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            options.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, tuple):
            options += [f"--{flag}", ",".join(value) or "none"]
        else:
            options += [f"--{flag}", str(value)]
    return options


def checked(configuration: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values given by keyword in Python, held to the same types, ranges and choices as on the command line.

    Args:
        configuration: a dataclass instance with `setting` fields, all of the names in `values` among them.
        values: an ImageSize may be '240x320' or (240, 320), a tuple of names a list or one name.

    Raises:
        UserError: a value of the wrong type, out of range, or not among the choices.
    """
    fields = {field.name: field for field in dataclasses.fields(configuration)}
    found = {}
    for name, value in values.items():
        default, text = getattr(configuration, name), str(value)
        if isinstance(value, (tuple, list)):
            text = ("x" if isinstance(default, ImageSize) else ",").join(map(str, value)) or "none"
        try:
            if isinstance(default, bool) and not isinstance(value, bool):
                raise argparse.ArgumentTypeError("expected True or False")
            found[name] = value if isinstance(default, bool) else _read(type(default), fields[name].metadata, text)
        except argparse.ArgumentTypeError as error:
            raise UserError(f"{name}={value!r}: {error}.") from None
    return found


def names_in(text: str) -> list[str]:
    """Reads an option that names several things, quoted: 'a b' and 'a,b'."""
    return text.replace(",", " ").split()


def as_words(configuration: Any, default: Any = None) -> list[str]:
    """Every setting in words, or what differs from another instance: ['epochs 6', 'pooled layers mixed7,mixed8']."""
    ours, theirs = as_json(configuration), as_json(default) if default else {}
    changed = {name: value for name, value in ours.items() if name not in theirs or value != theirs[name]}
    return [f"{name.replace('_', ' ')} {word(value)}" for name, value in changed.items()]


def word(value: Any) -> str:
    """A setting's value as a person reads it: 'yes', '0.05', 'mixed7,mixed8', 'none'."""
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value) or "none"


def as_json(configuration: Any) -> dict[str, Any]:
    """A configuration dataclass as plain JSON values."""
    values = {field.name: getattr(configuration, field.name) for field in dataclasses.fields(configuration)}
    return {
        name: str(value) if isinstance(value, ImageSize) else list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
    }


def _metavar(value: Any, metadata: Mapping[str, Any]) -> str:
    if metadata["choices"]:
        return "{" + ",".join(metadata["choices"]) + "}"
    names = {int: "N", float: "X", str: "TEXT", ImageSize: "HxW", tuple: "NAME[,NAME]"}
    return names[type(value)]


def _read(kind: type, metadata: Mapping[str, Any], text: str) -> Any:
    """The value of an option's text: of this kind, and in the metadata's range; else an ArgumentTypeError."""
    if kind is ImageSize:
        try:
            return ImageSize.parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
    if kind is tuple:
        return () if text == "none" else tuple(part.strip() for part in text.split(",") if part.strip())
    if kind is str:
        if metadata["choices"] and text not in metadata["choices"]:
            words, hint = ", ".join(metadata["choices"]), nearest(text, metadata["choices"])
            raise argparse.ArgumentTypeError(f"expected one of {words}, found {text!r}{hint}")
        return text
    least, most = metadata["least"], metadata["most"]
    try:
        value = kind(text)
    except ValueError:
        word = "a whole number" if kind is int else "a number"
        raise argparse.ArgumentTypeError(f"expected {word}, found {text!r}") from None
    below = least is not None and not value >= least  # 'not >=' so that nan is refused too
    if below or (most is not None and not value <= most):
        bounds = f"at least {least}" if most is None else f"at most {most}" if least is None else f"{least} to {most}"
        raise argparse.ArgumentTypeError(f"expected {bounds}, found {text}")
    return value


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """The type of an option: a function from its text to a whole number from `least` to `most`."""
    return functools.partial(_read, int, {"least": least, "most": most})


def number(least: float, most: float) -> Callable[[str], float]:
    """The type of an option: a function from its text to a number from `least` to `most`."""
    return functools.partial(_read, float, {"least": least, "most": most})


def nearest(word: str, words: Sequence[str]) -> str:
    """' Did you mean X?', or nothing where no word is near."""
    match = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f". Did you mean {match[0]}?" if match else ""


class CommandLine(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line naming the nearest right option; abbreviations are errors too.

    Args:
        everyday: the names of the options that --help shows; --help-all shows every option. Without: --help does.
    """

    def __init__(self, everyday: Collection[str] = (), **keywords: Any) -> None:
        self.everyday = frozenset(everyday)
        layout = functools.partial(argparse.RawDescriptionHelpFormatter, max_help_position=36, width=120)
        super().__init__(allow_abbrev=False, formatter_class=layout, **keywords)
        if everyday:
            self.add_argument("--help-all", action=_HelpAll, nargs=0, help="show every option, in groups, and exit")

    def print_help(self, file: Any = None) -> None:
        if self.everyday:
            for action in self._actions:
                if action.dest not in self.everyday:
                    action.help = argparse.SUPPRESS
        super().print_help(file)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            word = next((word for word in unknown if word.startswith("-")), unknown[0])
            flags = [flag for flag in self._option_string_actions if flag.startswith("--")]
            hint = nearest(word.split("=")[0], flags) if word.startswith("-") else ""
            kind = "option" if word.startswith("-") else "argument"
            self.error(f"unknown {kind} {word}{hint or '.'} All options: {self.prog} --help")
        return parsed

    def error(self, message: str) -> NoReturn:
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)


class _HelpAll(argparse.Action):
    def __call__(self, parser: Any, *others: Any) -> NoReturn:
        parser.everyday = frozenset()
        parser.print_help()
        sys.exit()
