"""What stands before the page: small requests only, and none that another site's name led here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
LOCAL = ("127.0.0.1", "localhost", "::1")


class Gate:
    """ASGI middleware: refuses bodies that are too large with 413, and unknown host names with 421.

    Args:
        app: what it stands before.
        most: bytes of a body.
        most_upload: bytes of a body of an upload.
        hosts: names that this server answers to; None: all.
    """

    def __init__(self, app: Any, *, most: int, most_upload: int, hosts: tuple[str, ...] | None = None) -> None:
        self.app, self.most, self.most_upload, self.hosts = app, most, most_upload, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        if self.hosts is not None and host_of(headers.get(b"host", b"")) not in self.hosts:
            await _refuse(send, 421, b"This server does not answer to that name.")
            return
        most = self.most_upload if scope["path"].endswith("/upload") else self.most
        declared = headers.get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > most:
            await _refuse(send, 413, b"The request is too large.")
            return
        read, begun = 0, False

        async def counted() -> MutableMapping[str, Any]:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > most:  # a body that does not say how long it is
                return {"type": "http.disconnect"}
            return message

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, counted, watched)
        except Exception:
            if begun or read <= most:
                raise
            await _refuse(send, 413, b"The request is too large.")


def host_of(header: bytes) -> str:
    """The name in a Host header, without its port."""
    name = header.decode("latin-1").strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0]


async def _refuse(send: Send, status: int, words: bytes) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(words)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": words})
