"""What stands before the page: sizes and host names."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from tenfold.demo.gate import LOCAL, Gate, host_of


async def inner(scope: Any, receive: Any, send: Any) -> None:
    """Reads the whole body and tells its length."""
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RuntimeError("gone")
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(size).encode()})


def asked(
    parts: list[bytes], path: str = "/x", length: bytes | None = None, host: bytes = b"localhost:7860"
) -> tuple[int, bytes]:
    """Status and body of a request whose body comes in parts."""
    sent: list[MutableMapping[str, Any]] = []
    waiting = [{"type": "http.request", "body": part, "more_body": i + 1 < len(parts)} for i, part in enumerate(parts)]

    async def receive() -> Any:
        return waiting.pop(0)

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    headers = [(b"host", host)] + ([] if length is None else [(b"content-length", length)])
    scope = {"type": "http", "path": path, "headers": headers}
    asyncio.run(Gate(inner, most=10, most_upload=100, hosts=LOCAL)(scope, receive, send))
    return sent[0]["status"], sent[1]["body"]


@pytest.mark.parametrize(
    ("parts", "options", "answer"),
    [
        ([b"12345"], {}, (200, b"5")),
        ([b"12345", b"12345"], {"length": b"10"}, (200, b"10")),
        ([b"12345"], {"length": b"11"}, (413, b"The request is too large.")),
        ([b"12345"], {"length": b"-1"}, (413, b"The request is too large.")),
        ([b"12345"], {"length": b"x"}, (413, b"The request is too large.")),
        ([b"12345", b"12345", b"1"], {}, (413, b"The request is too large.")),  # does not say how long it is
        ([b"1" * 50], {"path": "/gradio_api/upload"}, (200, b"50")),
        ([b"1" * 101], {"path": "/gradio_api/upload"}, (413, b"The request is too large.")),
        ([b"1"], {"host": b"evil.example"}, (421, b"This server does not answer to that name.")),
        ([b"1"], {"host": b""}, (421, b"This server does not answer to that name.")),
        ([b"1"], {"host": b"127.0.0.1:7860"}, (200, b"1")),
        ([b"1"], {"host": b"[::1]:7860"}, (200, b"1")),
    ],
)
def test_sizes_and_names(parts: list[bytes], options: dict[str, Any], answer: tuple[int, bytes]) -> None:
    assert asked(parts, **options) == answer


def test_the_name_in_a_header() -> None:
    assert [host_of(each) for each in (b"A.b:80", b"[::1]", b"x", b" y ")] == ["a.b", "::1", "x", "y"]
