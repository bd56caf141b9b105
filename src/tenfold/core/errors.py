"""The one exception that carries a message for the person at the keyboard, and the one question asked of others."""

from __future__ import annotations

import errno

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LONGEST_MESSAGE = 600  # characters; a message may quote a file of any length


class UserError(ValueError):
    """A mistake the user can mend: the message is one line saying what, where and what to do.

    The command line prints it without a traceback and exits with 2. Library code that only checks its own
    arguments raises plain `ValueError`, of which this is a kind. What a message quotes of files and of models is made
    harmless here (see `one_line`).
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(str(message)))


def one_line(text: str, longest: int = LONGEST_MESSAGE) -> str:
    """Text of any source as one line that a terminal can show.

    Line ends and tabs become spaces. What no printer shows, such as the escape that moves a terminal's cursor, marks that
    turn the direction of writing, and bytes that are no text, is spelt out. Too long a text loses its middle.
    """
    if len(text) > 4 * longest:  # a quoted file costs no more than a short one
        text = f"{text[: 2 * longest]} … {text[-2 * longest :]}"
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " if c.isspace() else repr(c)[1:-1] for c in text)
        text = " ".join(text.split())
    if len(text) > longest:
        last = longest // 3
        text = f"{text[: longest - last - 3]} … {text[-last:]}"
    return text


def printable(text: str, *, keep: str = "", unseen: str | None = " ") -> str:
    """Text of any source without what would steer a terminal or turn the direction of writing.

    Args:
        text: such as a model's answer or a name of a user's file.
        keep: characters that stay though no printer shows them, such as line ends.
        unseen: stands for each of the others; None: they are spelt out, as `\\x1b`.
    """
    return "".join(
        c if c.isprintable() or c in keep else f"\\x{ord(c):02x}" if unseen is None else unseen for c in text
    )


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that the disk, the user's quota or the largest size of a file is used up."""
    if isinstance(error, OSError):
        return error.errno in _DISK_FULL
    # The library that writes safetensors names the system's error in its text only.
    return any(f"(os error {number})" in str(error) for number in _DISK_FULL)
