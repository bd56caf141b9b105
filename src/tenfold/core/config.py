"""Configs: frozen dataclasses to JSON and back, and from the command line."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import io
import itertools
import json
import math
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from tenfold.core.errors import UserError

T = TypeVar("T")
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_FLOAT = "$float"  # key of the object that stands for a non-finite float, which JSON lacks


def to_json(value: Any) -> Any:
    """Plain JSON data: dataclasses become objects, tuples lists, paths text, tensors numbers.

    NaN and the infinities become the objects {"$float": "NaN"}, "Infinity" and "-Infinity", which `restore_non_finite`
    reads back; no other data may look like them.

    Raises:
        TypeError: anything else, named.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        return {_FLOAT: "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if callable(getattr(value, "tolist", None)):  # a tensor or an array of any size
        return to_json(value.tolist())
    raise TypeError(f"cannot write {type(value).__name__} as JSON: {value!r}")


def restore_non_finite(value: Any) -> Any:
    """The objects by which `to_json` stands for NaN and the infinities become floats again, at any depth."""
    if isinstance(value, list):
        return [restore_non_finite(item) for item in value]
    if isinstance(value, dict):
        if value.keys() == {_FLOAT} and isinstance(value[_FLOAT], str) and value[_FLOAT] in _NON_FINITE:
            return _NON_FINITE[value[_FLOAT]]
        return {key: restore_non_finite(item) for key, item in value.items()}
    return value


def from_json(kind: type[T], data: Any, *, where: str = "config.json") -> T:
    """Build a config of type `kind` from JSON data; fields that are absent take their defaults.

    Args:
        kind: a dataclass; its fields may be numbers, text, bool, Literal, Optional, unions, tuples, lists, dicts,
            paths and further dataclasses. A float may also be one of the texts "NaN", "Infinity", "-Infinity".
        data: what `json.loads` gave.
        where: what an error message calls the source.
    Raises:
        UserError: unknown field, wrong type, or a value the dataclass itself refuses; the message names the field.
    """
    built: T = _build(kind, data, where, ())
    return built


def read_json(path: Path) -> Any:
    """Parse a JSON file; UserError in one line where it is missing or is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"file not found: {path}") from None
    except (ValueError, RecursionError) as error:  # also bytes that are no UTF-8, numbers of thousands of digits
        raise UserError(f"not valid JSON: {path}: {error}") from None


def read_object(path: Path, **fields: Any) -> dict[str, Any]:
    """`read_json` of an object that has at least these fields, each of the type given; UserError naming what is wrong."""
    data = read_json(path)
    if not isinstance(data, dict):
        raise UserError(f"{path}: got {type(data).__name__}, need a JSON object; is it the right file, and whole?")
    for name, kind in fields.items():
        if not isinstance(data.get(name), kind):
            raise UserError(f"{path}: {name}: need {_type_name(kind)}; the file is damaged")
    return data


def _build(kind: Any, data: Any, where: str, path: tuple[str, ...]) -> Any:
    """Build a value of the annotated type `kind`; `path` is the way to it, for messages."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return _build(arguments[0], data, where, path)
    if kind is Any:
        return restore_non_finite(data)
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, data, where, path)
    if origin is Literal:
        if any(data == choice and type(data) is type(choice) for choice in arguments):
            return data
        raise _wrong(data, f"one of {', '.join(map(repr, arguments))}", where, path)
    if origin in (typing.Union, types.UnionType):
        return _build_union(arguments, data, where, path)
    if origin is tuple and isinstance(data, list):
        return _build_tuple(arguments, data, where, path)
    if origin in (list, Sequence) and isinstance(data, list):
        return [_build(arguments[0], item, where, (*path, str(index))) for index, item in enumerate(data)]
    if origin in (dict, Mapping) and isinstance(data, dict):
        return {key: _build(arguments[1], item, where, (*path, key)) for key, item in data.items()}
    return _build_plain(kind, data, where, path)


def _build_plain(kind: Any, data: Any, where: str, path: tuple[str, ...]) -> Any:
    if kind in (None, types.NoneType) and data is None:
        return None
    if kind in (bool, str) and isinstance(data, kind):
        return data
    if kind is int and isinstance(data, int) and not isinstance(data, bool):
        return data
    if kind is float:
        data = restore_non_finite(data)
        if isinstance(data, (int, float)) and not isinstance(data, bool):
            return float(data)
        if isinstance(data, str) and data in _NON_FINITE:
            return _NON_FINITE[data]
    if isinstance(kind, type) and issubclass(kind, Path) and isinstance(data, str):
        return kind(data)
    raise _wrong(data, _type_name(kind), where, path)


def _build_dataclass(kind: Any, data: Any, where: str, path: tuple[str, ...]) -> Any:
    if not isinstance(data, dict):
        raise _wrong(data, f"an object with the fields of {kind.__name__}", where, path)
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = [field for field in dataclasses.fields(kind) if field.init]
    names = [field.name for field in fields]
    for key in data:
        if key not in names:
            raise UserError(f"{_at(where, (*path, key))}: unknown field{did_you_mean(key, names)}")
    for field in fields:
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if field.name not in data and not optional:
            raise UserError(f"{_at(where, (*path, field.name))}: missing, need {_type_name(hints[field.name])}")
    values = {key: _build(hints[key], item, where, (*path, key)) for key, item in data.items()}
    try:
        return kind(**values)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{_at(where, path)}: {error}") from error


def _build_union(kinds: tuple[Any, ...], data: Any, where: str, path: tuple[str, ...]) -> Any:
    errors: list[UserError] = []
    for kind in sorted(kinds, key=lambda kind: kind is float):  # an int stays an int in `float | int`
        try:
            return _build(kind, data, where, path)
        except UserError as error:
            errors.append(error)
    objects = [error for kind, error in zip(kinds, errors, strict=True) if dataclasses.is_dataclass(kind)]
    if isinstance(data, dict) and len(objects) == 1:
        raise objects[0]  # `Model | None` given an object: say what is wrong inside it
    raise _wrong(data, " or ".join(_type_name(kind) for kind in kinds), where, path)


def _build_tuple(kinds: tuple[Any, ...], data: list[Any], where: str, path: tuple[str, ...]) -> tuple[Any, ...]:
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(data)
    if len(kinds) != len(data):
        raise _wrong(data, f"{len(kinds)} values", where, path)
    pairs = enumerate(zip(kinds, data, strict=True))
    return tuple(_build(kind, item, where, (*path, str(index))) for index, (kind, item) in pairs)


def _at(where: str, path: tuple[str, ...]) -> str:
    return f"{where}: {'.'.join(path)}" if path else where


def _wrong(data: Any, need: str, where: str, path: tuple[str, ...]) -> UserError:
    return UserError(f"{_at(where, path)}: got {json.dumps(data)[:80]}, need {need}")


def _type_name(kind: Any) -> str:
    if kind in (None, types.NoneType):
        return "null"
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind).replace("typing.", "")


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """' (did you mean X?)' where one of the known words is close, else nothing."""
    close = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


# From the command line.


def take_preset(presets: Mapping[str, T], argv: Sequence[str], *, default: str = "tiny") -> tuple[str, list[str]]:
    """Split a leading preset name off the arguments.

    Returns:
        the name (`default` where the arguments start with an option or are empty) and the remaining arguments.
    Raises:
        UserError: a name that is no preset.
    """
    if not argv or argv[0].startswith("-"):
        return default, list(argv)
    if argv[0] not in presets:
        hint = did_you_mean(argv[0], list(presets))
        raise UserError(f"unknown preset {argv[0]!r}{hint}; known: {', '.join(presets)}")
    return argv[0], list(argv[1:])


def parse(presets: Mapping[str, T], argv: Sequence[str], *, prog: str = "", description: str | None = None) -> T:
    """A config from `[PRESET] [--field value ...]`: the preset (default tiny) with the given fields replaced.

    Args:
        presets: name to config, a dataclass instance.
        argv: the arguments; nested fields are spelt `--model.dim 64`.
        prog: the command, shown in usage and before messages.
        description: shown by `--help` in place of the dataclass's docstring.
    Raises:
        UserError: unknown preset, unknown option, wrong value; one line.
    """
    try:
        name, rest = take_preset(presets, argv)
    except UserError as error:
        raise UserError(f"{prog}: {error}" if prog else str(error)) from None
    default = presets[name]

    def change(**options: Any) -> T:
        import tyro

        # Without AvoidSubcommands a field `Model | None` would become a subcommand.
        return tyro.cli(type(default), default=default, config=(tyro.conf.AvoidSubcommands,), **options)

    return _parsed(change, rest, prog, description)


def bind(function: Callable[..., T], argv: Sequence[str], *, prog: str = "") -> Callable[[], T]:
    """A call of a typed function with its arguments read from the command line; nothing runs before it is called.

    Raises:
        UserError: unknown option, missing or wrong value; one line.
    """

    @functools.wraps(function)
    def later(*arguments: Any, **keywords: Any) -> Callable[[], T]:
        return functools.partial(function, *arguments, **keywords)

    def change(**options: Any) -> Any:
        import tyro

        return tyro.cli(later, config=(tyro.conf.PositionalRequiredArgs,), **options)

    bound: Callable[[], T] = _parsed(change, list(argv), prog, None)
    return bound


def _parsed(change: Callable[..., Any], argv: list[str], prog: str, description: str | None) -> Any:
    """Run tyro and turn its boxed complaints into one line."""
    label = f"{prog}: " if prog else ""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            value, unknown = change(args=argv, prog=prog or None, description=description, return_unknown_args=True)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise  # --help
        raise UserError(f"{label}{_with_option(_unboxed(complaint.getvalue()), change)}") from None
    except UserError:
        raise
    except ValueError as error:  # the dataclass refused its values
        raise UserError(f"{label}{error}") from error
    if unknown:
        if not unknown[0].startswith("-"):
            raise UserError(f"{label}unexpected argument {unknown[0]!r}; options are spelt --name value (see --help)")
        option = unknown[0].split("=")[0]
        hint = did_you_mean(option.replace("_", "-"), _known_options(change))
        raise UserError(f"{label}unknown option {option}{hint or ' (see --help)'}")
    return value


def _with_option(message: str, change: Callable[..., Any]) -> str:
    """`model: dim: got 0` as `--model.dim: got 0`, where there is such an option."""
    words = message.split(": ")
    names = list(itertools.takewhile(str.isidentifier, words))
    for first in range(min(2, len(names))):  # a field at the top stands behind the dataclass's name
        option = "--" + ".".join(names[first:]).replace("_", "-")
        if option in _known_options(change):
            return ": ".join([option, *words[len(names) :]])
    return message


def _known_options(change: Callable[..., Any]) -> list[str]:
    """Every option named in the help text."""
    help_text = io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(help_text):
        change(args=["--help"], return_unknown_args=True)
    return sorted(set(re.findall(r"(?<![\w-])--[\w.-]+", re.sub(r"\x1b\[[0-9;]*m", "", help_text.getvalue()))))


def _unboxed(text: str) -> str:
    """The message inside tyro's box, without its title, its rules and its footer, on one line."""
    rows = [row.strip().strip("│").strip() for row in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()]
    rows = [row for row in rows if row and not re.fullmatch(r"[╭╰].*[╮╯]", row)]
    if "╭" not in text:
        rows = rows[2:]  # where stdout is not UTF-8 the title stands above a rule, not in the border
    # Below the first rule stands help, not the message.
    lines = itertools.takewhile(lambda row: not re.fullmatch(r"[─-]+", row), rows)
    message = " ".join(" ".join(lines).split()).removeprefix("Error parsing ")
    return re.sub(r"^Missing from [^:]*: ", "missing ", message)


def need_distinct(name: str, values: tuple[Any, ...]) -> None:
    """ValueError naming the field unless there is a value, and none twice."""
    if not values or len(set(values)) != len(values):
        raise ValueError(f"{name}: got {values}, need one or more, all different")


def need_seeds(seeds: tuple[int, ...]) -> None:
    """ValueError unless there is a seed, none twice, all in [0, 2^40)."""
    need_distinct("seeds", seeds)
    if not all(0 <= seed < 2**40 for seed in seeds):
        raise ValueError(f"seeds: got {seeds}, need 0 or more, below 2 to the 40th")


def need(
    name: str, value: float | tuple[float, ...] | None, least: float, most: float = math.inf, *, above: bool = False
) -> None:
    """ValueError naming the field unless every number is finite and in [least, most], or above `least`; None is right."""
    for number in value if isinstance(value, tuple) else () if value is None else (value,):
        if not (least < number if above else least <= number) or not number <= most or math.isinf(number):
            limit = f"more than {least:g}" if above else f"at least {least:g}"
            raise ValueError(
                f"{name}: got {number}, need {limit}" + ("" if math.isinf(most) else f", at most {most:.12g}")
            )
