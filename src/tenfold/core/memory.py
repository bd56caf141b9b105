"""Free memory goes back to the system: tensors of ever other sizes leave gaps that the C library would keep."""

from __future__ import annotations

import ctypes
import threading
import time

PAUSE = 10.0  # seconds between two times
_last = time.monotonic()
_lock = threading.Lock()


def give_back(*, pause: float = PAUSE) -> bool:
    """Hand freed memory back, at most once in `pause` seconds; call it often, it costs a look at the clock.

    Where prompts, answers and batches have a length of their own each, glibc keeps the gaps between their tensors: a
    process that needs 3 GB came to hold 14.

    Returns:
        whether something was handed back; never where the C library is not glibc.
    """
    global _last
    with _lock:
        now = time.monotonic()
        if now - _last < pause:
            return False
        _last = now
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (OSError, AttributeError, TypeError):  # TypeError: Windows has no CDLL of the process itself
        return False
