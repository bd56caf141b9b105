"""An OpenAI-compatible server on the loopback interface that answers by rule and fails on demand."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Body = dict[str, Any]

STATUS = {
    400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 422: "Unprocessable Entity",
    429: "Too Many Requests", 500: "Internal Server Error", 502: "Bad Gateway", 503: "Service Unavailable",
    504: "Gateway Timeout",
}  # fmt: skip


def respond(status: int, body: bytes | Body, headers: Mapping[str, str] | None = None) -> bytes:
    """A whole HTTP answer; a dict becomes JSON."""
    kind = "application/json" if isinstance(body, dict) else "text/html"
    content = json.dumps(body).encode() if isinstance(body, dict) else body
    fields = {"Content-Type": kind, "Content-Length": str(len(content)), **(headers or {})}
    head = f"HTTP/1.1 {status} {STATUS.get(status, 'OK')}\r\n" + "".join(f"{k}: {v}\r\n" for k, v in fields.items())
    return head.encode() + b"\r\n" + content


def said(request: Body, index: int = 0) -> str:
    """What the server answers: a word that depends on the conversation, the seed and the index among the n."""
    prompt = request.get("messages") or request.get("prompt")
    key = json.dumps([prompt, (request.get("seed") or 0) + index])
    return "word-" + hashlib.sha256(key.encode()).hexdigest()[:8]


def completion(request: Body) -> Body:
    """The honest answer to a request, of either API."""
    choices = []
    for index in range(request.get("n", 1)):
        text = said(request, index)
        choice: Body = {"index": index, "finish_reason": "stop", "logprobs": None}
        choice |= {"text": text} if "prompt" in request else {"message": {"role": "assistant", "content": text}}
        choices.append(choice)
    usage = {"prompt_tokens": 7, "completion_tokens": 3 * len(choices), "total_tokens": 7 + 3 * len(choices)}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": request["model"],
        "choices": choices,
        "usage": usage,
    }


def events(request: Body) -> list[Body]:
    """The chunks of the same answer as a stream."""
    whole = completion(request)
    chunks: list[Body] = []
    for choice in whole["choices"]:
        text, index = choice["message"]["content"], choice["index"]
        deltas: list[tuple[Body, str | None]] = [({"role": "assistant", "content": ""}, None)]
        deltas += [({"content": text[i : i + 3]}, None) for i in range(0, len(text), 3)] + [({}, "stop")]
        chunks += [{"choices": [{"index": index, "delta": d, "finish_reason": reason}]} for d, reason in deltas]
    return [*chunks, {"choices": [], "usage": whole["usage"]}]


def stream(chunks: Sequence[Body], end: bool = True) -> bytes:
    """Chunks as server-sent events, the connection's end being the body's."""
    lines = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + ("data: [DONE]\n\n" if end else "")
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n" + lines.encode()


def honest(request: Body) -> bytes:
    return stream(events(request)) if request.get("stream") else respond(200, completion(request))


def changed(request: Body, **choice: Any) -> bytes:
    """The honest answer with fields of its first choice replaced."""
    body = completion(request)
    body["choices"][0] |= choice
    return respond(200, body)


def without(request: Body, name: str) -> bytes:
    return respond(200, {key: value for key, value in completion(request).items() if key != name})


def error(status: int, message: str, code: str | None = None, headers: Mapping[str, str] | None = None) -> bytes:
    return respond(status, {"error": {"message": message, "code": code, "type": "server"}}, headers)


# What a server can do wrong, and may do right the next time. None closes the connection hard (RST), "hang" never answers.
FAULTS: dict[str, Callable[[Body], bytes | str | None]] = {
    "429": lambda r: error(429, "slow down"),
    "429 seconds": lambda r: error(429, "slow down", headers={"Retry-After": "7"}),
    "429 date": lambda r: error(429, "slow down", headers={"Retry-After": "Thu, 01 Jan 1970 00:16:49 GMT"}),
    "500": lambda r: error(500, "oops"),
    "502": lambda r: respond(502, b"<html>bad gateway</html>"),
    "503": lambda r: error(503, "overloaded"),
    "504": lambda r: error(504, "upstream timed out"),
    "reset": lambda r: None,
    "timeout": lambda r: "hang",
    "closed before the end": lambda r: honest(r)[:-9],
    "empty choices": lambda r: respond(200, completion(r) | {"choices": []}),
    "no choices": lambda r: without(r, "choices"),
    "content null": lambda r: changed(r, message={"role": "assistant", "content": None}),
    "content a number": lambda r: changed(r, message={"role": "assistant", "content": 5}),
    "no finish_reason": lambda r: changed(r, finish_reason=None),
    "invalid JSON": lambda r: respond(200, b'{"choices": [', {"Content-Type": "application/json"}),
    "NaN": lambda r: respond(200, b'{"choices": NaN}', {"Content-Type": "application/json"}),
    "deep JSON": lambda r: respond(200, b"[" * 100_000, {"Content-Type": "application/json"}),
    "JSON list": lambda r: respond(200, b"[]", {"Content-Type": "application/json"}),
    "HTML with 200": lambda r: respond(200, b"<html>sign in</html>"),
    "BOM": lambda r: respond(200, b"\xef\xbb\xbf" + json.dumps(completion(r)).encode()),
    "not UTF-8": lambda r: respond(200, b'{"choices": "\xff"}'),
    "error with 200": lambda r: respond(200, {"error": {"message": "upstream is down"}}),
    "packed": lambda r: respond(200, gzip.compress(json.dumps(completion(r)).encode()), {"Content-Encoding": "gzip"}),
}  # fmt: skip

# Faults of a stream.
STREAM_FAULTS: dict[str, Callable[[Body], bytes | str | None]] = {
    "no final marker": lambda r: stream(events(r)[:3], end=False),
    "no final marker yet DONE": lambda r: stream(events(r)[:3]),
    "no chunks": lambda r: stream([]),
    "chunk after the end": lambda r: stream([*events(r), events(r)[1]]),
    "all chunks twice": lambda r: stream(events(r) * 2),
    "half a chunk": lambda r: stream(events(r))[:-40] + b"\n\n",
    "an error as chunk": lambda r: stream([events(r)[0], {"error": {"message": "overloaded"}}]),
    "a number as choice": lambda r: stream([{"choices": [5]}]),
}


class FaultServer:
    """Serves in a thread of its own, as a context manager.

    Args:
        faults: what the first requests meet in turn, names of FAULTS or STREAM_FAULTS, answers, or "ok".
        answer: makes the answer to every other request.
        fault_of: for each request, by its number from 0, the name of its fault or None.
        delay: seconds before an answer.
    """

    def __init__(
        self,
        faults: Sequence[str | bytes] = (),
        *,
        answer: Callable[[Body], bytes | str | None] = honest,
        fault_of: Callable[[int], str | None] | None = None,
        delay: float = 0.0,
    ) -> None:
        self.requests: list[Body] = []
        self.headers: list[bytes] = []
        self.under_way = self.most_under_way = self.connections = self.open_connections = 0
        self._faults, self._answer, self._fault_of, self._delay = list(faults), answer, fault_of, delay

    def __enter__(self) -> FaultServer:
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), daemon=True)
        self._thread.start()
        assert started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def _serve(self, started: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        started.set()
        await self._stop.wait()
        server.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else delayed acknowledgements cost 40 ms
        self.connections += 1
        self.open_connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
                request = json.loads(await reader.readexactly(int(length.split(b":")[1])))
                answer = await self._answered(head, request)
                if answer is None:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    writer.transport.abort()
                    return
                writer.write(answer)
                if b"Connection: close" in answer or b"\r\n\r\n" not in answer or not _whole(answer):
                    return
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass  # the client, or the test, is done
        finally:
            writer.close()
            self.open_connections -= 1

    async def _answered(self, head: bytes, request: Body) -> bytes | None:
        number = len(self.requests)
        self.requests.append(request)
        self.headers.append(head)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await asyncio.sleep(self._delay)
            fault = self._faults[number] if number < len(self._faults) else "ok"
            if self._fault_of is not None:
                fault = self._fault_of(number) or "ok"
            answer = (
                fault if isinstance(fault, bytes) else {**FAULTS, **STREAM_FAULTS, "ok": self._answer}[fault](request)
            )
            if answer == "hang":
                await asyncio.sleep(60)
            assert not isinstance(answer, str)
            return answer
        finally:
            self.under_way -= 1


def _whole(answer: bytes) -> bool:
    head, _, content = answer.partition(b"\r\n\r\n")
    length = next((line for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")), None)
    return length is not None and int(length.split(b":")[1]) == len(content)
