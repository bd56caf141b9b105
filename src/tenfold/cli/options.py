"""The few options that the command line reads itself; a recipe's own fields are read by `tenfold.core.config`."""

from __future__ import annotations

from tenfold.core.config import did_you_mean
from tenfold.core.errors import UserError


def take_value(argv: list[str], option: str, command: str) -> tuple[str | None, list[str]]:
    """Take `--option value` or `--option=value` out of the arguments.

    Returns:
        the value (None where the option is absent) and the other arguments.
    Raises:
        UserError: the value is missing, or the option is given twice.
    """
    value: str | None = None
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        name, equals, given = word.partition("=")
        if name != option:
            rest.append(word)
            continue
        if value is not None:
            raise UserError(f"{command}: {option} is given twice")
        value = given if equals else next(words, "")
        if not value or (not equals and value.startswith("-")):
            raise UserError(f"{command}: {option} needs a value")
    return value, rest


def take_flag(argv: list[str], option: str) -> tuple[bool, list[str]]:
    """Take `--option` out of the arguments."""
    return option in argv, [word for word in argv if word != option]


def wants_help(argv: list[str]) -> bool:
    """Whether help is asked for."""
    return "--help" in argv or "-h" in argv


def refuse(argv: list[str], command: str, known: tuple[str, ...] = ()) -> None:
    """Nothing may be left: UserError naming the first word that nobody took."""
    if argv and argv[0].startswith("-"):
        hint = did_you_mean(argv[0], known) or (f"; known: {', '.join(known)}" if known else "")
        raise UserError(f"{command}: unknown option {argv[0]}{hint}")
    if argv:
        raise UserError(f"{command}: unexpected argument {argv[0]!r}")
