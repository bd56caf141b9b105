"""The one exception that carries a message for the person at the keyboard, and the one question asked of others."""

from __future__ import annotations

import errno

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UserError(ValueError):
    """A mistake the user can mend: the message is one line saying what, where and what to do.

    The command line prints it without a traceback and exits with 2. Library code that only checks its own
    arguments raises plain `ValueError`, of which this is a kind.
    """


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that the disk, the user's quota or the largest size of a file is used up."""
    if isinstance(error, OSError):
        return error.errno in _DISK_FULL
    # The library that writes safetensors names the system's error in its text only.
    return any(f"(os error {number})" in str(error) for number in _DISK_FULL)
