"""The running answer to one request of the engine."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable, Iterator

from tenfold.lm.request import Event, Finish, Finished, NewToken, Request


class TokenStream:
    """The tokens of one request as they are made: iterate, or `cancel`.

    Args:
        request: what is continued.
        listener: takes every event; None: they wait for whoever iterates.
        step: runs the engine in the calling thread; False where another thread does.

    Attributes:
        finish: why it ended; None while it runs.
    """

    def __init__(self, request: Request, listener: Callable[[Event], None] | None, step: Callable[[], bool]) -> None:
        self.request = request
        self._step = step
        self.finish: Finished | None = None
        self.cancelled = False
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.emit = listener or self._events.put

    def cancel(self) -> None:
        """Stop making tokens for this request; safe from any thread, also when it has ended."""
        self.cancelled = True

    def __iter__(self) -> Iterator[NewToken]:
        while True:
            try:
                event = self._events.get_nowait()
            except queue.Empty:
                if self._step():
                    continue
                event = self._events.get()
            if isinstance(event, NewToken):
                yield event
            elif isinstance(event, Finished):
                return
            else:
                raise event

    def end(self, reason: Finish | Exception, reused: int = 0) -> None:
        """Hand out the last event; the engine calls it once."""
        event: Event = reason if isinstance(reason, Exception) else Finished(reason, reused)
        self.finish = event if isinstance(event, Finished) else None
        with contextlib.suppress(Exception):  # a listener whose event loop is gone: nobody is left to tell
            self.emit(event)


class EngineBusyError(RuntimeError):
    """Too many requests wait."""


class EngineClosedError(RuntimeError):
    """The engine was closed."""
