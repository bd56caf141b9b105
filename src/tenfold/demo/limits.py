"""What a stranger may send: texts and numbers of a known kind and size. Everything else is one line back."""

from __future__ import annotations

from typing import Any

from tenfold.core.errors import UserError, printable

MOST_BODY = 1 << 20  # bytes of a request that is no upload
MOST_UPLOAD = 8 << 20  # bytes of a file
MOST_PIXELS = 4096 * 4096  # of a picture


def text(name: str, value: Any, most: int, *, empty: bool = False) -> str:
    """A text without control characters, outer blanks taken off.

    Args:
        name: of the field, which opens every message.
        value: what was sent.
        most: characters.
        empty: whether none is fine.
    Raises:
        UserError: no text, too long, or empty.
    """
    if value is None:
        value = ""
    if not isinstance(value, str):
        raise UserError(f"{name}: got {type(value).__name__}, need a text")
    if len(value) > most:
        raise UserError(f"{name}: got {len(value)} characters, need at most {most}")
    kept = printable(value.replace("\r\n", "\n"), keep="\n").strip()
    if not kept and not empty:
        raise UserError(f"{name}: got nothing, write something")
    return kept


def number(name: str, value: Any, low: float, high: float) -> float:
    """A number in [low, high].

    Raises:
        UserError: none, or another.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise UserError(f"{name}: got {str(value)[:40]!r}, need a number from {low:g} to {high:g}")
    return float(value)


def whole(name: str, value: Any, low: int, high: int) -> int:
    """A whole number in [low, high]; 3.0 counts as one.

    Raises:
        UserError: none, or another.
    """
    given = number(name, value, low, high)
    if given != int(given):
        raise UserError(f"{name}: got {given:g}, need a whole number")
    return int(given)


def choice(name: str, value: Any, known: Any) -> Any:
    """One of the values known.

    Raises:
        UserError: another.
    """
    if not isinstance(value, str | int | float) or value not in known:
        raise UserError(f"{name}: got {str(value)[:60]!r}, choose one of the list")
    return value
