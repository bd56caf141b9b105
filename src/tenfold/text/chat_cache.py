"""Replies kept in a SQLite file: asked once, answered from the file ever after."""

from __future__ import annotations

import copy
import threading
from asyncio import CancelledError, shield, wrap_future
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

from tenfold.core.errors import UserError
from tenfold.text.budget import Budget
from tenfold.text.endpoint_errors import shown
from tenfold.text.messages import SAMPLING, ChatModel, Message, Reply, Sampling
from tenfold.text.reply_store import ReplyStore, request_key


class MissingReplyError(UserError):
    """A store holds no reply to the request."""


class CachedChatModel:
    """A model whose replies are kept in a file; the same request is sent once, however many ask for it at once.

    A request is the model's identity, the messages, every field of the sampling and the reply's index among the n:
    so several replies at temperature > 0 stay several. Errors are never kept. Tasks, threads and event loops that share
    this object wait for one request under way; others, in this process or another, may use the file at the same time,
    and the reply that is stored first stands for all.

    Args:
        inner: the model to ask. Its `identity` (else its `name`) tells it from others.
        path: the file, made where absent.
    Raises:
        UserError: a file that is no such store, damaged, or of a newer version.
    """

    def __init__(self, inner: ChatModel, path: str | Path) -> None:
        self.name = inner.name
        self.inner = inner
        self.identity: str = getattr(inner, "identity", inner.name)
        self._store = ReplyStore(path)
        self._store.add_model(self.identity, self.name)
        self._under_way: dict[bytes, Future[None]] = {}
        self._lock = threading.Lock()

    def with_budget(self, budget: Budget) -> CachedChatModel:
        """The same store over a model that charges `budget`: what the store answers is free."""
        twin = copy.copy(self)
        twin.inner = budget.wrap(self.inner)
        return twin

    async def complete(self, messages: Sequence[Message], sampling: Sampling = SAMPLING, n: int = 1) -> list[Reply]:
        """n replies from the store, or from the model and then kept."""
        request = request_key(self.identity, messages, sampling)
        while (replies := self._store.get(request, n)) is None:
            with self._lock:
                other = self._under_way.get(request)
                if other is None:
                    ours = self._under_way[request] = Future()
            if other is None:
                return await self._ask(request, ours, messages, sampling, n)
            await shield(wrap_future(other))  # raises what the other call met; else look again
        return replies

    async def _ask(
        self, request: bytes, ours: Future[None], messages: Sequence[Message], sampling: Sampling, n: int
    ) -> list[Reply]:
        """Ask the model on behalf of all that want the same."""
        failure: BaseException | None = None
        try:
            stored = self._store.get(request, n)  # another call may have ended just before ours began
            if stored is not None:
                return stored
            # All n, also where some are stored: a seeded model would draw those again.
            return self._store.put(request, await self.inner.complete(messages, sampling, n))
        except CancelledError:
            raise  # those who wait will ask themselves
        except BaseException as error:
            failure = error
            raise
        finally:
            with self._lock:
                del self._under_way[request]
            if failure is None:
                ours.set_result(None)
            else:
                ours.set_exception(failure)


class ReplayChatModel:
    """A model that answers only from a store that a `CachedChatModel` wrote; nothing is ever sent.

    Args:
        store: the file.
        identity: whose replies, where the store holds those of several models.
    Raises:
        UserError: no such store, or none or several models in it and no identity.
        MissingReplyError: from `complete`, saying which request the store lacks.
    """

    def __init__(self, store: str | Path, identity: str | None = None) -> None:
        if not Path(store).is_file():
            raise UserError(f"replies: no store at {store}; record one with CachedChatModel")
        self._store = ReplyStore(store, read_only=True)
        known = self._store.models()
        if identity is None and len(known) != 1:
            raise UserError(f"replies: {store} holds {len(known)} models; give identity=, one of {sorted(known)}")
        if identity is not None and identity not in known:
            raise UserError(f"replies: {store} holds none of {identity}, only of {sorted(known)}")
        self.identity = identity or next(iter(known))
        self.name = known[self.identity]

    def with_budget(self, budget: Budget) -> ReplayChatModel:
        """The same model: it costs nothing."""
        return self

    async def complete(self, messages: Sequence[Message], sampling: Sampling = SAMPLING, n: int = 1) -> list[Reply]:
        """n replies from the store."""
        replies = self._store.get(request_key(self.identity, messages, sampling), n)
        if replies is None:
            last = f"{messages[-1].role}: {shown(messages[-1].content[-80:])}" if messages else "nothing"
            raise MissingReplyError(
                f"replies: {self._store.path} lacks {n} of {shown(self.name)} to {len(messages)} messages that end with "
                f"«{last}», drawn with {shown(sampling)}"
            )
        return replies
