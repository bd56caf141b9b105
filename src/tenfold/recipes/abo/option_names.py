"""Errors that name fields of the library, told in options of the command line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from tenfold.core.errors import UserError

# Field, as its errors begin or name it, to option.
_OPTIONS = (
    (r"\bmax_target_calls\b", "--calls"),
    (r"\bmax_calls\b", "--budget-calls"),
    (r"\bmax_usd\b", "--budget-usd"),
    (r"\bmax_seconds\b", "--budget-seconds"),
    (r"\bmax_tokens(?= is |=\d)", "--budget-tokens"),
    (r"\brun_dir\b", "--out"),
    (r"^pattern:", "--scorer:"),
    (r"^rate:", "--faults:"),
    (r"^latency:", "--latency:"),
    (r"map yours with columns \((input|target)=NAME\)", r"map yours with --\1-column NAME"),
    (r"give prices=\{model: \(in, out\)\}", "give --target-price IN OUT, --optimizer-price IN OUT"),
)


def in_options(text: str) -> str:
    """A message with options in place of fields."""
    for field, option in _OPTIONS:
        text = re.sub(field, option, text)
    return text


@contextmanager
def named_options() -> Iterator[None]:
    """Errors of the block that name fields name options instead; all others pass.

    Raises:
        UserError: as the block's, in options.
    """
    try:
        yield
    except ValueError as error:
        told = in_options(str(error))
        if told == str(error):
            raise
        raise UserError(told) from error
