"""Requests under way at the server: a job's answers in one piece, or as server-sent events."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from tenfold.core.errors import UserError
from tenfold.lm.chat import Ending, Heard, LocalChatModel, Piece
from tenfold.lm.request import NewToken
from tenfold.lm.serve_format import ApiError, ChatBody, CompletionBody
from tenfold.lm.serve_policy import FILTERED, Exchange, Policy, verdict
from tenfold.lm.serve_wire import Wire
from tenfold.lm.token_stream import EngineBusyError, EngineClosedError, TokenStream
from tenfold.text.endpoint_errors import ContextLengthError
from tenfold.text.messages import Message as Turn
from tenfold.text.tool_calls import OPEN, calls_in, sure_text, tool_names


def client_error(error: Exception) -> ApiError:
    """What a client is told of an error that its request met."""
    if isinstance(error, ContextLengthError):
        return ApiError(400, str(error), "messages", code="context_length_exceeded")
    if isinstance(error, EngineBusyError):
        return ApiError(429, "Too many requests are waiting; try again later.", kind="rate_limit_error")
    if isinstance(error, EngineClosedError):
        return ApiError(503, "The server is shutting down.", kind="server_error")
    if isinstance(error, UserError | ValueError):
        return ApiError(400, str(error))
    return ApiError(500, f"internal error: {type(error).__name__}", kind="server_error")


class Job:
    """One request: its n answers under way, whose pieces arrive in one queue of the event loop.

    Args:
        model, name: who answers, and what the request called it.
        body, ids: the request, and its prompt in tokens.
        policy: judges the request before the model is asked and each whole answer before any of it is handed out.
    """

    def __init__(
        self,
        model: LocalChatModel,
        name: str,
        body: ChatBody | CompletionBody,
        ids: Sequence[int],
        policy: Policy | None = None,
    ) -> None:
        self.model, self.name, self.body, self.ids = model, name, body, ids
        self.id, self.created = secrets.token_hex(12), int(time.time())
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[tuple[int, Heard]] = asyncio.Queue()
        self._streams: list[TokenStream] = []
        self._cancelled = False
        self._policy = policy

    def start(self) -> None:
        try:
            if self._policy is not None and (instead := verdict(self._policy, self._exchange())) is not None:
                for index in range(self.body.n):
                    for heard in (Piece(instead, None), Ending(FILTERED, len(self.ids), 0, 0)):
                        self._loop.call_soon_threadsafe(self._queue.put_nowait, (index, heard))
                self._policy = None  # it has spoken
                return
            for index in range(self.body.n):
                if self._cancelled:
                    break

                def hear(heard: Heard, index: int = index) -> None:
                    self._loop.call_soon_threadsafe(self._queue.put_nowait, (index, heard))

                self._streams.append(
                    self.model.submit(
                        self.ids, self.body.sampling, hear, index=index, top_logprobs=self.body.top_logprobs
                    )
                )
        except ApiError:
            self.cancel()
            raise
        except Exception as error:
            self.cancel()
            raise client_error(error) from error

    def cancel(self) -> None:
        self._cancelled = True
        for stream in list(self._streams):
            stream.cancel()

    async def heard(self) -> AsyncIterator[tuple[int, Piece | Ending]]:
        """(answer, what was heard of it) until all have ended; with a policy an answer comes when it is whole and passed."""
        going = self.body.n
        held: list[list[Piece]] = [[] for _ in range(going)]
        while going:
            index, heard = await self._queue.get()
            if isinstance(heard, BaseException):
                raise client_error(heard if isinstance(heard, Exception) else RuntimeError())
            going -= isinstance(heard, Ending)
            if self._policy is None:
                yield index, heard
            elif isinstance(heard, Piece):
                held[index].append(heard)
            else:
                for each in await self._judged(self._policy, held[index], heard):
                    yield index, each

    async def _judged(self, policy: Policy, pieces: list[Piece], ending: Ending) -> list[Piece | Ending]:
        if ending.reason == "cancelled":  # part of an answer, which nobody judged
            return [ending]
        answer = "".join(piece.text for piece in pieces)
        instead = await asyncio.to_thread(verdict, policy, replace(self._exchange(), answer=answer))
        if instead is None:
            return [*pieces, ending]
        return [Piece(instead, None), replace(ending, reason=FILTERED)]

    def _exchange(self) -> Exchange:
        if isinstance(self.body, ChatBody):
            return Exchange(self.name, self.body.messages)
        prompt = self.body.prompt if self.body.ids is None else self.model.tokenizer.decode(list(self.ids))
        return Exchange(self.name, (Turn("user", prompt),))


@dataclass
class _Gathered:
    text: str
    tokens: list[NewToken]
    ending: Ending | None = None


async def whole(request: Request, job: Job) -> Response:
    """The answer in one piece; a client that hangs up meanwhile frees its place."""
    answers = [_Gathered("", []) for _ in range(job.body.n)]

    async def gather() -> None:
        async for index, heard in job.heard():
            if isinstance(heard, Ending):
                answers[index].ending = heard
            else:
                answers[index].text += heard.text
                if heard.token is not None:
                    answers[index].tokens.append(heard.token)

    work = asyncio.create_task(gather())
    try:
        while not work.done():
            await asyncio.wait({work}, timeout=0.5)
            if not work.done() and await request.is_disconnected():
                return Response(status_code=499)  # nobody reads it
        work.result()
    finally:
        work.cancel()
        job.cancel()
    endings = [answer.ending for answer in answers if answer.ending is not None]
    if any(ending.reason == "cancelled" for ending in endings):
        raise ApiError(503, "The server is shutting down.", kind="server_error")
    finished = [(answer.text, answer.tokens, ending) for answer, ending in zip(answers, endings, strict=True)]
    wire = Wire(job.id, job.name, job.created, job.model.tokenizer)
    if isinstance(job.body, ChatBody):
        return JSONResponse(wire.chat(job.body, finished))
    return JSONResponse(wire.completion(job.body, finished))


class EventStream(StreamingResponse):
    """A streamed answer. A client that hangs up, or takes nothing for `write_seconds`, frees its place."""

    def __init__(self, job: Job, write_seconds: float) -> None:
        super().__init__(_events(job), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._job, self._write_seconds = job, write_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def timed(message: Message) -> None:
            try:
                await asyncio.wait_for(send(message), self._write_seconds)
            except TimeoutError:
                raise _DeafClientError from None

        try:
            await super().__call__(scope, receive, timed)
        except _DeafClientError:
            pass  # the server closes the connection of an answer that was not completed
        finally:
            self._job.cancel()


class _DeafClientError(Exception):
    """The client takes nothing."""


async def _events(job: Job) -> AsyncIterator[bytes]:
    """The answer as server-sent events."""
    chat = isinstance(job.body, ChatBody)
    wire = Wire(job.id, job.name, job.created, job.model.tokenizer)
    tools = tool_names(job.body.sampling) if chat else frozenset()
    held = [""] * job.body.n  # text that may still turn out to be a call of a tool
    silent = [True] * job.body.n  # nothing of the answer was handed out
    endings: list[Ending] = []
    offsets = [0] * job.body.n  # characters of the answer's tokens so far

    def event(index: int | None, **content: Any) -> bytes:
        chunk = wire.chat_chunk(index, **content) if chat else wire.completion_chunk(index, **content)
        return b"data: " + json.dumps(chunk, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"

    try:
        if chat:
            for index in range(job.body.n):
                yield event(index, role="assistant")
        async for index, heard in job.heard():
            if isinstance(heard, Piece):
                text = held[index] + heard.text
                sure = sure_text(text, silent[index]) if tools else len(text)
                text, held[index] = text[:sure], text[sure:]
                silent[index] = silent[index] and not text
                token = heard.token if job.body.wants_logprobs else None
                if text or token is not None:
                    where = {} if chat else {"offset": offsets[index]}
                    yield event(index, text=text, token=token, **where)
                if token is not None:
                    offsets[index] += len(wire.spelt(token.id))
                continue
            endings.append(heard)
            if heard.reason == "cancelled":
                raise ApiError(503, "The server is shutting down.", kind="server_error")
            text, calls = calls_in(held[index], tools) if silent[index] or OPEN in held[index] else (held[index], ())
            if text:
                yield event(index, text=text)
            if calls:
                yield event(index, calls=calls)
            yield event(index, finish="tool_calls" if calls else heard.reason)
        if job.body.include_usage:
            yield event(None, usage=endings)
        yield b"data: [DONE]\n\n"
    except ApiError as error:
        yield b"data: " + json.dumps({"error": error.body()}).encode() + b"\n\n"
