"""A loopback server that speaks OpenAI's chat API for any chat model, and misbehaves on demand: to try a search against an unreliable endpoint."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from tenfold.core.config import need
from tenfold.core.errors import UserError
from tenfold.lm.serve_format import ApiError, ChatBody, parse_body
from tenfold.text.endpoint_errors import ContextLengthError
from tenfold.text.messages import ChatModel, Reply

try:
    import uvicorn
    from fastapi import FastAPI, Request
    from fastapi.responses import JSONResponse, Response, StreamingResponse
except ImportError as missing:
    raise UserError('the server needs FastAPI and uvicorn: pip install "tenfold[serve]"') from missing

from typing import Literal

Kind = Literal["429", "500", "502", "503", "504", "reset", "html", "broken", "empty", "null", "bom", "slow"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MOST_BYTES = 4 << 20


@dataclass(frozen=True)
class Faults:
    """What goes wrong.

    Args:
        rate: share of requests that are answered with a fault.
        kinds: which, each as likely: statuses, a connection that is cut, a page with status 200, JSON that ends early, no
            choices, content null, a byte order mark, or an answer that comes late.
        latency: seconds before every answer.
        late: seconds more of a slow one.
        seed: of the draws; they follow the order of the requests.
    """

    rate: float = 0.0
    kinds: tuple[Kind, ...] = ("429", "500", "503", "reset", "html", "broken", "empty", "null", "bom")
    latency: float = 0.0
    late: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        need("rate", self.rate, 0, 1)
        need("latency", self.latency, 0)
        need("late", self.late, 0)
        if not self.kinds or (unknown := set(self.kinds) - set(KINDS)):
            raise ValueError(f"kinds: got {self.kinds or unknown}, need some of {', '.join(KINDS)}")


def create_app(models: Mapping[str, ChatModel], faults: Faults = Faults()) -> FastAPI:
    """The web application.

    Args:
        models: by the name that requests give.
        faults: what goes wrong.
    """
    if not models:
        raise ValueError("models: got none, need at least one")
    app = FastAPI(title="tenfold", docs_url=None, redoc_url=None, openapi_url=None)
    draw = random.Random(f"faults {faults.seed}")
    counts: dict[str, int] = {"requests": 0, "faults": 0}

    @app.exception_handler(ApiError)
    async def _api_error(_: Request, error: ApiError) -> Response:
        return JSONResponse({"error": error.body()}, error.status)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", **counts}

    @app.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": name, "object": "model", "owned_by": "tenfold"} for name in models]}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = ChatBody.read(parse_body(await _body(request)), 128)
        name = body.model or next(iter(models))
        if name not in models:
            raise ApiError(404, f"The model {name[:100]!r} does not exist; known: {', '.join(models)}", "model", code="model_not_found")  # fmt: skip
        counts["requests"] += 1
        kind = draw.choice(faults.kinds) if draw.random() < faults.rate else None
        counts["faults"] += kind is not None
        await asyncio.sleep(faults.latency + (faults.late if kind == "slow" else 0.0))
        if kind is not None and kind not in ("slow", "bom"):
            return _fault(kind)
        try:
            replies = await models[name].complete(body.messages, body.sampling, body.n)
        except ContextLengthError as error:
            raise ApiError(400, str(error), "messages", code="context_length_exceeded") from None
        except ValueError as error:
            raise ApiError(400, str(error)) from None
        whole = _completion(name, replies)
        if body.stream:
            return StreamingResponse(_events(whole), media_type="text/event-stream")
        mark = b"\xef\xbb\xbf" if kind == "bom" else b""
        return Response(mark + json.dumps(whole).encode(), media_type="application/json")

    return app


async def _body(request: Request) -> bytes:
    content = bytearray()
    async for piece in request.stream():
        content.extend(piece)
        if len(content) > MOST_BYTES:
            raise ApiError(413, f"The body is larger than {MOST_BYTES} bytes.")
    return bytes(content)


def _fault(kind: Kind) -> Response:
    if kind.isdigit():
        headers = {"Retry-After": "0"} if kind == "429" else None
        return JSONResponse(
            {"error": {"message": f"injected fault {kind}", "type": "fault"}}, int(kind), headers=headers
        )
    if kind == "reset":
        return StreamingResponse(_cut(), headers={"content-length": "1000"}, media_type="application/json")
    bodies: dict[str, tuple[str, str]] = {
        "html": ("<html><body>Bad gateway</body></html>", "text/html"),
        "broken": ('{"id": "x", "choices": [{"index": 0, "mess', "application/json"),
        "empty": ('{"id": "x", "object": "chat.completion", "choices": []}', "application/json"),
        "null": (
            '{"choices": [{"index": 0, "message": {"role": "assistant", "content": null}, "finish_reason": "stop"}]}',
            "application/json",
        ),
    }
    text, media = bodies[kind]
    return Response(text, media_type=media)


async def _cut() -> AsyncIterator[bytes]:
    """A body that ends before its announced length, which the server answers by closing the connection."""
    yield b'{"id": '
    raise ConnectionResetError


def _completion(model: str, replies: list[Reply]) -> dict[str, Any]:
    choices = [
        {
            "index": i,
            "message": {"role": "assistant", "content": reply.text},
            "finish_reason": reply.finish_reason,
            "logprobs": None,
        }
        for i, reply in enumerate(replies)
    ]
    prompt, completion = (sum(getattr(reply.usage, part) for reply in replies) for part in ("prompt", "completion"))
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return {
        "id": "chatcmpl-tenfold",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": choices,
        "usage": usage,
    }


async def _events(whole: Mapping[str, Any]) -> AsyncIterator[bytes]:
    """The same completion as server-sent events: role, text in pieces, end, usage."""
    head = {**{name: whole[name] for name in ("id", "created", "model")}, "object": "chat.completion.chunk"}

    def event(choices: list[dict[str, Any]], **more: Any) -> bytes:
        return b"data: " + json.dumps({**head, "choices": choices, **more}).encode() + b"\n\n"

    for choice in whole["choices"]:
        text, index = choice["message"]["content"], choice["index"]
        yield event([{"index": index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
        for start in range(0, len(text), 200):
            yield event([{"index": index, "delta": {"content": text[start : start + 200]}, "finish_reason": None}])
        yield event([{"index": index, "delta": {}, "finish_reason": choice["finish_reason"]}])
    yield event([], usage=whole["usage"])
    yield b"data: [DONE]\n\n"


def serve(models: Mapping[str, ChatModel], port: int = 0, faults: Faults = Faults()) -> None:
    """Serve on 127.0.0.1 until interrupted.

    Args:
        models: by name.
        port: TCP port; 0 takes a free one, which is printed.
        faults: what goes wrong.
    Raises:
        UserError: the port is in use.
    """
    if not 0 <= port < 1 << 16:
        raise UserError(f"port: got {port}, need 0..65535 (0 takes a free one)")
    try:
        listener = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise UserError(f"port {port}: {error.strerror or error}; choose another with --port") from error
    config = uvicorn.Config(
        create_app(models, faults), log_level="critical", access_log=False, timeout_graceful_shutdown=5
    )
    rate = f", {faults.rate:.0%} faults" if faults.rate else ""
    print(
        f"serving {', '.join(models)} at http://127.0.0.1:{listener.getsockname()[1]}/v1{rate} (Ctrl-C ends)",
        flush=True,
    )
    with listener:
        uvicorn.Server(config).run(sockets=[listener])
