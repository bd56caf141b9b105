"""An OpenAI-compatible server around local chat models: /v1/models, /v1/chat/completions, /v1/completions."""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tenfold.core.errors import UserError
from tenfold.lm.chat import Ending, Heard, LocalChatModel, Piece
from tenfold.lm.engine import EngineBusyError, EngineClosedError, TokenStream
from tenfold.lm.request import NewToken
from tenfold.lm.serve_format import (
    ApiError,
    ChatBody,
    CompletionBody,
    Wire,
    parse_body,
)
from tenfold.text.endpoint_errors import ContextLengthError
from tenfold.text.tool_calls import OPEN, calls_in, sure_text, tool_names

try:
    import uvicorn
    from fastapi import FastAPI, Request
    from fastapi.responses import JSONResponse, Response, StreamingResponse
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect
    from starlette.types import Message, Receive, Scope, Send
except ImportError as missing:
    raise UserError('the server needs FastAPI and uvicorn: pip install "tenfold[serve]"') from missing


@dataclass(frozen=True)
class ServerLimits:
    """What one client may ask of the server.

    Args:
        body_bytes: size of a request's body.
        body_seconds: time a client has to send it.
        write_seconds: time a client has to take a piece of a streamed answer.
        choices: answers to one request.
    """

    body_bytes: int = 4 << 20
    body_seconds: float = 30.0
    write_seconds: float = 60.0
    choices: int = 16


def create_app(
    models: Mapping[str, LocalChatModel], *, api_key: str | None = None, limits: ServerLimits = ServerLimits()
) -> FastAPI:
    """The web application, for `serve`, a test client or a server of your own.

    Args:
        models: by the name that the `model` field of a request gives; the first answers where it is left out.
        api_key: what clients must send as `Authorization: Bearer …`; None lets all in.
        limits: of one request.
    """
    if not models:
        raise ValueError("models: got none, need at least one")
    started = int(time.time())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        for model in models.values():
            await asyncio.to_thread(model.close)

    app = FastAPI(title="tenfold", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)

    def failed(error: ApiError) -> Response:
        headers = {"Retry-After": "1"} if error.status in (429, 503) else None
        return JSONResponse({"error": error.body()}, error.status, headers=headers)

    @app.exception_handler(ApiError)
    async def _api_error(_: Request, error: ApiError) -> Response:
        return failed(error)

    @app.exception_handler(HTTPException)
    async def _http_error(request: Request, error: HTTPException) -> Response:
        return failed(ApiError(error.status_code, f"{request.method} {request.url.path}: {error.detail}"))

    @app.exception_handler(Exception)
    async def _unforeseen(_: Request, error: Exception) -> Response:
        return failed(ApiError(500, f"internal error: {type(error).__name__}", kind="server_error"))

    def admit(request: Request) -> None:
        if api_key is not None:
            given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
            if not hmac.compare_digest(given.encode(), api_key.encode()):
                raise ApiError(401, "Incorrect API key provided.", kind="authentication_error", code="invalid_api_key")

    async def body(request: Request) -> Any:
        admit(request)
        return parse_body(await _read_body(request, limits))

    def find(name: str | None) -> tuple[str, LocalChatModel]:
        if name is None:
            return next(iter(models.items()))
        if name not in models:
            known = ", ".join(models)
            raise ApiError(
                404, f"The model {name[:100]!r} does not exist; known: {known}", "model", code="model_not_found"
            )
        return name, models[name]

    def card(name: str) -> dict[str, Any]:
        model = models[name]
        return {
            "id": name,
            "object": "model",
            "created": started,
            "owned_by": "tenfold",
            "max_model_len": min(model.engine.model.cfg.max_len, model.engine.capacity),
        }

    @app.get("/health")
    async def health() -> dict[str, Any]:
        loads = {name: model.engine.load() for name, model in models.items()}
        return {"status": "ok", "models": {n: {"running": r, "waiting": w} for n, (r, w) in loads.items()}}

    @app.get("/v1/models")
    async def list_models(request: Request) -> dict[str, Any]:
        admit(request)
        return {"object": "list", "data": [card(name) for name in models]}

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str, request: Request) -> dict[str, Any]:
        admit(request)
        return card(find(name)[0])

    async def answer(request: Request, job: _Job) -> Response:
        # What cannot run ends as an error here, not as a broken stream. In a thread: a large schema takes seconds to compile.
        try:
            await asyncio.to_thread(job.start)
        except asyncio.CancelledError:
            job.cancel()
            raise
        return _EventStream(job, limits.write_seconds) if job.body.stream else await _whole(request, job)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        parsed = ChatBody.read(await body(request), limits.choices)
        name, model = find(parsed.model)
        ids = await _checked(asyncio.to_thread(model.prompt, parsed.messages, parsed.sampling))
        return await answer(request, _Job(model, name, parsed, ids))

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        parsed = CompletionBody.read(await body(request), limits.choices)
        name, model = find(parsed.model)
        ids = parsed.ids if parsed.ids is not None else await asyncio.to_thread(model.tokenizer.encode, parsed.prompt)
        if not ids:
            start = model.tokenizer.bos_id if model.tokenizer.bos_id is not None else model.tokenizer.eos_id
            ids = [] if start is None else [start]
        return await answer(request, _Job(model, name, parsed, ids))

    return app


def serve(
    model: Any,
    tokenizer: Any = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    name: str = "local",
    api_key: str | None = None,
    limits: ServerLimits = ServerLimits(),
    **engine: Any,
) -> None:
    """Serve until interrupted; running answers get ten seconds to end.

    Args:
        model: a decoder with its tokenizer, a `LocalChatModel`, or several by name.
        tokenizer: of a decoder.
        host: the address to listen at; beyond this machine only with an `api_key`.
        port: TCP port.
        name: of a decoder, in the `model` field of requests.
        api_key, limits: as in `create_app`.
        engine: options of `lm.engine.Engine` for a decoder.
    Raises:
        UserError: the port is in use, or the address is open to others without a key.
    """
    if not 0 <= port < 1 << 16:
        raise UserError(f"port: got {port}, need 0..65535 (0 takes a free one)")
    if host not in ("127.0.0.1", "::1", "localhost") and not api_key:
        raise UserError(f"host: {host} is open to other machines; set an API key (TENFOLD_API_KEY) or take 127.0.0.1")
    if isinstance(model, LocalChatModel):
        models: Mapping[str, LocalChatModel] = {model.name: model}
    elif isinstance(model, Mapping):
        models = model
    else:
        models = {name: LocalChatModel(model, tokenizer, name, **engine)}
    try:
        socket.getaddrinfo(host, port)
    except socket.gaierror:
        raise UserError(f"host: {host} is no address of this machine; take 127.0.0.1") from None
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise UserError(f"port {port} at {host}: {error.strerror or error}; choose another with --port") from error
    for served in models.values():
        served.warm_up()
    config = uvicorn.Config(
        create_app(models, api_key=api_key, limits=limits),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=10,
        timeout_keep_alive=30,
        limit_concurrency=1024,
        h11_max_incomplete_event_size=64 << 10,
        server_header=False,
    )
    shown = f"[{host}]" if ":" in host else host
    print(f"serving {', '.join(models)} at http://{shown}:{listener.getsockname()[1]}/v1 (Ctrl-C ends)", flush=True)
    with listener:
        uvicorn.Server(config).run(sockets=[listener])


async def _read_body(request: Request, limits: ServerLimits) -> bytes:
    """The body, in bounded memory and time."""
    too_large = ApiError(413, f"The body is larger than {limits.body_bytes} bytes.", code="request_too_large")
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > limits.body_bytes:
        raise too_large
    content = bytearray()

    async def read() -> None:
        async for piece in request.stream():
            content.extend(piece)
            if len(content) > limits.body_bytes:
                raise too_large

    try:
        await asyncio.wait_for(read(), limits.body_seconds)
    except TimeoutError:
        raise ApiError(408, f"The body did not arrive within {limits.body_seconds:g} seconds.") from None
    except ClientDisconnect:
        raise ApiError(400, "The body did not arrive.") from None  # nobody hears it
    return bytes(content)


async def _checked(work: Awaitable[list[int]]) -> list[int]:
    """Await something whose errors are the client's."""
    try:
        return await work
    except (UserError, ValueError) as error:
        raise _client_error(error) from error


def _client_error(error: Exception) -> ApiError:
    if isinstance(error, ContextLengthError):
        return ApiError(400, str(error), "messages", code="context_length_exceeded")
    if isinstance(error, EngineBusyError):
        return ApiError(429, "Too many requests are waiting; try again later.", kind="rate_limit_error")
    if isinstance(error, EngineClosedError):
        return ApiError(503, "The server is shutting down.", kind="server_error")
    if isinstance(error, UserError | ValueError):
        return ApiError(400, str(error))
    return ApiError(500, f"internal error: {type(error).__name__}", kind="server_error")


class _Job:
    """One request: its n answers under way, whose pieces arrive in one queue of the event loop."""

    def __init__(self, model: LocalChatModel, name: str, body: ChatBody | CompletionBody, ids: Sequence[int]) -> None:
        self.model, self.name, self.body, self.ids = model, name, body, ids
        self.id, self.created = secrets.token_hex(12), int(time.time())
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[tuple[int, Heard]] = asyncio.Queue()
        self._streams: list[TokenStream] = []
        self._cancelled = False

    def start(self) -> None:
        try:
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
        except Exception as error:
            self.cancel()
            raise _client_error(error) from error

    def cancel(self) -> None:
        self._cancelled = True
        for stream in list(self._streams):
            stream.cancel()

    async def heard(self) -> AsyncIterator[tuple[int, Piece | Ending]]:
        """(answer, what was heard of it) until all have ended."""
        going = self.body.n
        while going:
            index, heard = await self._queue.get()
            if isinstance(heard, BaseException):
                raise _client_error(heard if isinstance(heard, Exception) else RuntimeError())
            going -= isinstance(heard, Ending)
            yield index, heard


@dataclass
class _Gathered:
    text: str
    tokens: list[NewToken]
    ending: Ending | None = None


async def _whole(request: Request, job: _Job) -> Response:
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


class _EventStream(StreamingResponse):
    """A streamed answer. A client that hangs up, or takes nothing for `write_seconds`, frees its place."""

    def __init__(self, job: _Job, write_seconds: float) -> None:
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


async def _events(job: _Job) -> AsyncIterator[bytes]:
    """The answer as server-sent events."""
    chat = isinstance(job.body, ChatBody)
    wire = Wire(job.id, job.name, job.created, job.model.tokenizer)
    tools = tool_names(job.body.sampling) if chat else frozenset()
    held = [""] * job.body.n  # text that may still turn out to be a call of a tool
    silent = [True] * job.body.n  # nothing of the answer was handed out
    endings: list[Ending] = []

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
                    yield event(index, text=text, token=token)
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
