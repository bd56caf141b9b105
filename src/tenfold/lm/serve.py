"""An OpenAI-compatible server around local chat models: /v1/models, /v1/chat/completions, /v1/completions."""

from __future__ import annotations

import asyncio
import hmac
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenfold.core.errors import UserError
from tenfold.lm.chat import LocalChatModel
from tenfold.lm.serve_format import ApiError, ChatBody, CompletionBody, parse_body
from tenfold.lm.serve_policy import Policy
from tenfold.nn import lora
from tenfold.nn.lora_layer import activate

try:
    import uvicorn
    from fastapi import FastAPI, Request
    from fastapi.responses import JSONResponse, Response
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect

    from tenfold.lm.serve_answers import EventStream, Job, client_error, whole
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
    models: Mapping[str, LocalChatModel],
    *,
    api_key: str | None = None,
    limits: ServerLimits = ServerLimits(),
    policy: Policy | None = None,
) -> FastAPI:
    """The web application, for `serve`, a test client or a server of your own.

    Args:
        models: by the name that the `model` field of a request gives; the first answers where it is left out.
        api_key: what clients must send as `Authorization: Bearer …`; None lets all in.
        limits: of one request.
        policy: judges requests and answers. What it refuses gets its text, with the finish reason "content_filter"; streams
            then hold an answer back until it is whole.
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

    async def answer(request: Request, job: Job) -> Response:
        # What cannot run ends as an error here, not as a broken stream. In a thread: a large schema takes seconds to compile.
        try:
            await asyncio.to_thread(job.start)
        except asyncio.CancelledError:
            job.cancel()
            raise
        return EventStream(job, limits.write_seconds) if job.body.stream else await whole(request, job)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        parsed = ChatBody.read(await body(request), limits.choices)
        name, model = find(parsed.model)
        ids = await _checked(asyncio.to_thread(model.prompt, parsed.messages, parsed.sampling))
        return await answer(request, Job(model, name, parsed, ids, policy))

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        parsed = CompletionBody.read(await body(request), limits.choices)
        name, model = find(parsed.model)
        ids = parsed.ids if parsed.ids is not None else await asyncio.to_thread(model.tokenizer.encode, parsed.prompt)
        if not ids:
            start = model.tokenizer.bos_id if model.tokenizer.bos_id is not None else model.tokenizer.eos_id
            ids = [] if start is None else [start]
        return await answer(request, Job(model, name, parsed, ids, policy))

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
    adapters: Mapping[str, str | Path] | None = None,
    policy: Policy | None = None,
    **engine: Any,
) -> None:
    """Serve until interrupted; running answers get ten seconds to end.

    Args:
        model: a decoder with its tokenizer, a `LocalChatModel`, or several by name.
        tokenizer: of a decoder.
        host: the address to listen at; beyond this machine only with an `api_key`.
        port: TCP port.
        name: of a decoder, in the `model` field of requests.
        api_key, limits, policy: as in `create_app`.
        adapters: {name: folder} of LoRA adapters for a decoder; NAME:ADAPTER asks for one.
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
        for adapter, folder in (adapters or {}).items():
            lora.load(model, folder, adapter)
        if adapters:
            activate(model, None)
        local = LocalChatModel(model, tokenizer, name, **engine)
        models = {each.name: each for each in (local, *map(local.with_adapter, adapters or ()))}
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
        create_app(models, api_key=api_key, limits=limits, policy=policy),
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
        raise client_error(error) from error
