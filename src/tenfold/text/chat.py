"""Language models as everything above talks to them: one protocol, its nouns, and one call for many conversations."""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

from tenfold.text.budget import Budget, BudgetExceededError, Spent
from tenfold.text.chat_cache import CachedChatModel, MissingReplyError, ReplayChatModel
from tenfold.text.concurrency import gather
from tenfold.text.endpoint import EndpointChatModel
from tenfold.text.endpoint_errors import ChoiceError, ContextLengthError, EndpointError, RefusedError
from tenfold.text.messages import (
    ROLES,
    SAMPLING,
    ChatModel,
    Message,
    Reply,
    Sampling,
    ToolCall,
    Usage,
    estimated_usage,
)
from tenfold.text.retry import Retry

__all__ = [
    "ROLES",
    "SAMPLING",
    "Budget",
    "BudgetExceededError",
    "CachedChatModel",
    "ChatModel",
    "ChoiceError",
    "ContextLengthError",
    "EndpointChatModel",
    "EndpointError",
    "Message",
    "MissingReplyError",
    "RefusedError",
    "ReplayChatModel",
    "Reply",
    "Retry",
    "Sampling",
    "ScriptedChatModel",
    "Spent",
    "ToolCall",
    "Usage",
    "complete_all",
    "run_sync",
]

T = TypeVar("T")
Script = Callable[[Sequence[Message], Sampling, int], str | Reply]


class ScriptedChatModel:
    """A model that says what it is told to, for tests and for players that follow rules.

    Args:
        replies: what to say in turn, in the order of the calls; or a function of (messages, sampling, index of the
            reply among the n of its call). Both give text or a whole `Reply`; tokens of a text are estimated.
        name: the model's name.
    Raises:
        ValueError: from `complete`, when the replies are used up.
    """

    def __init__(self, replies: Sequence[str | Reply] | Script, name: str = "scripted") -> None:
        self.name = name
        self._function: Script = replies if callable(replies) else self._next
        self._replies = () if callable(replies) else tuple(replies)
        self._used = 0
        self._lock = threading.Lock()

    async def complete(self, messages: Sequence[Message], sampling: Sampling = SAMPLING, n: int = 1) -> list[Reply]:
        """The next n replies, or n results of the function."""
        said = [self._function(messages, sampling, index) for index in range(n)]
        replies = []
        for index, reply in enumerate(said):
            if isinstance(reply, str):
                usage = estimated_usage(messages, reply)
                reply = Reply(reply, "stop", usage if index == 0 else replace(usage, prompt=0))
            replies.append(reply)
        return replies

    def _next(self, messages: Sequence[Message], sampling: Sampling, index: int) -> str | Reply:
        with self._lock:
            self._used += 1
            if self._used > len(self._replies):
                raise ValueError(f"replies: got {len(self._replies)}, need one more for request {self._used}")
            return self._replies[self._used - 1]


def complete_all(
    model: ChatModel,
    conversations: Sequence[Sequence[Message]],
    sampling: Sampling | Sequence[Sampling] = SAMPLING,
    n: int = 1,
) -> list[list[Reply]]:
    """Replies to many conversations at once, from plain code; a notebook's running event loop does not matter.

    Args:
        model: bounds by itself how many it answers at a time.
        conversations: the messages of each.
        sampling: one for all, or one for each conversation.
        n: replies to each.
    Returns:
        n replies to each conversation, in the order of the conversations.
    Raises:
        The first failure of the model, after the conversations still under way were cancelled.
    """
    each = [sampling] * len(conversations) if isinstance(sampling, Sampling) else list(sampling)
    if len(each) != len(conversations):
        raise ValueError(f"sampling: got {len(each)} for {len(conversations)} conversations, need one or one each")

    calls = zip(conversations, each, strict=True)
    return run_sync(gather(model.complete(messages, how, n) for messages, how in calls))


class _Loop:
    """An event loop in a thread of its own, kept for the whole process so that connections stay open between calls."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._serve, name="tenfold chat", daemon=True)
        self.thread.start()
        atexit.register(self.stop)

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(timeout=1)


_shared: _Loop | None = None
_lock = threading.Lock()


def run_sync(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, from plain code; a running event loop in this thread does not matter."""
    """The result of a coroutine, from plain code; a notebook's running event loop does not matter."""
    global _shared
    with _lock:
        if _shared is None or not _shared.thread.is_alive():  # a forked process has the object but not the thread
            _shared = _Loop()
        shared = _shared
    if threading.current_thread() is shared.thread:  # a model that calls others: its loop cannot wait for itself
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, work).result()
    future = asyncio.run_coroutine_threadsafe(work, shared.loop)
    try:
        return future.result()
    finally:
        future.cancel()  # when Ctrl-C ended the wait
