"""The official OpenAI client as a way to post one request: bounded, in any event loop, its errors told without the key."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from tenfold.core.errors import UserError
from tenfold.text.endpoint_errors import SECRET, EndpointError, Fault, from_status, shown

OPENAI = "https://api.openai.com/v1"
KEPT = 100  # connections of an event loop that stay open while nobody asks


class Connection:
    """An address and its key; each event loop that posts has clients of its own, which close with the loop.

    Args:
        base_url: None takes OPENAI_BASE_URL, else OpenAI's own.
        api_key: None takes OPENAI_API_KEY.
        timeout: seconds of one request.
        max_bytes: the longest body that is read.
    Raises:
        UserError: openai is not installed, no key for OpenAI's own address, or an address that is none.
    """

    def __init__(self, base_url: str | None, api_key: str | None, timeout: float, max_bytes: int) -> None:
        if timeout <= 0:
            raise ValueError(f"timeout: got {timeout}, need seconds > 0")
        self.base_url = _checked_address(base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI)
        self._key = _checked_key(api_key or os.environ.get("OPENAI_API_KEY"), self.base_url)
        self._timeout = timeout
        self._max_bytes = max_bytes
        self._openai, self._http = _modules()
        self._clients: dict[asyncio.AbstractEventLoop, tuple[_Clients, AsyncGenerator[_Clients, None]]] = {}
        self._lock = threading.Lock()

    async def post(self, path: str, body: Mapping[str, Any], where: str) -> tuple[bytes, str]:
        """The body of an answer with a status of success, and its content type.

        Args:
            path: after the address, such as /completions.
            body: JSON.
            where: how error messages begin.
        Raises:
            Fault: another try may help.
            EndpointError: none will.
        """
        clients = await self._of_this_loop()
        # Errors are raised `from None`: the client's own carry all that a server said, and the request with its key.
        try:
            async with clients.one() as client, asyncio.timeout(self._timeout):
                response = await client.post(path, body=body, cast_to=self._http.Response)
        except (TimeoutError, self._openai.APITimeoutError):
            raise Fault(f"no answer within {self._timeout:g} s") from None
        except self._openai.APIStatusError as error:
            retry_after = error.response.headers.get("retry-after")
            raise from_status(error.status_code, error.body, retry_after, where, self._key) from None
        except (self._openai.APIConnectionError, _TooLongError) as error:
            cause = error.__cause__ or error
            if isinstance(cause, _TooLongError):
                raise EndpointError(f"{where}: the body is longer than max_bytes={self._max_bytes}") from None
            reason = shown(f"{type(cause).__name__}: {cause}", self._key)
            raise Fault(f"connection failed: {reason}") from None
        content: bytes = response.content
        if self._key is not None and len(self._key) >= SECRET:  # a server may repeat it in a reply, too
            content = content.replace(self._key.encode(), b"***")
        return content, response.headers.get("content-type", "")

    async def _of_this_loop(self) -> _Clients:
        loop = asyncio.get_running_loop()
        with self._lock:
            if loop not in self._clients:
                for closed in [known for known in self._clients if known.is_closed()]:
                    del self._clients[closed]
                life = self._connected()
                # The generator must live as long as its clients. It reaches its yield without giving up the loop.
                self._clients[loop] = (await anext(life), life)
            return self._clients[loop][0]

    async def _connected(self) -> AsyncGenerator[_Clients, None]:
        """Yield clients and close them with the loop: loops close the asynchronous generators that they started."""
        trusted = self._http.create_ssl_context()  # read once, it takes longer than a request

        def client() -> Any:
            http_client = self._openai.DefaultAsyncHttpxClient(
                verify=trusted,
                limits=self._http.Limits(max_connections=None, max_keepalive_connections=1),
                headers={"accept-encoding": "identity"},
                event_hooks={"response": [self._bound]},
            )
            return self._openai.AsyncOpenAI(
                api_key=self._key or "none",
                base_url=self.base_url,
                timeout=self._timeout,
                max_retries=0,
                http_client=http_client,
            )

        clients = _Clients(client)
        try:
            yield clients
        finally:
            await clients.close()

    async def _bound(self, response: Any) -> None:
        """Before a body is read: it is never unpacked, since a small one can unpack to any size, and not read whole."""
        response.headers.pop("content-encoding", None)
        response.stream = _bounded_stream(self._http)(response.stream, self._max_bytes)


class _Clients:
    """Clients with one request at a time each.

    A pool of connections looks through all of them for every request: of 64 requests under way that was a third of what
    each one cost.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._idle: list[Any] = []

    @asynccontextmanager
    async def one(self) -> AsyncGenerator[Any, None]:
        """A client that nobody else uses meanwhile; the one used last, whose connection is the freshest."""
        client = self._idle.pop() if self._idle else self._make()
        try:
            yield client
        finally:
            if len(self._idle) < KEPT:
                self._idle.append(client)
            else:
                await client.close()

    async def close(self) -> None:
        while self._idle:
            await self._idle.pop().close()


class _TooLongError(Exception):
    pass


@cache
def _bounded_stream(http: ModuleType) -> Any:
    """The class of streams that end in an error beyond a number of bytes."""

    class Bounded(http.AsyncByteStream):  # type: ignore[name-defined]
        def __init__(self, stream: Any, max_bytes: int) -> None:
            self.stream = stream
            self.left = max_bytes

        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for chunk in self.stream:
                self.left -= len(chunk)
                if self.left < 0:
                    raise _TooLongError
                yield chunk

        async def aclose(self) -> None:
            await self.stream.aclose()

    return Bounded


def _checked_address(base_url: str) -> str:
    try:
        parts = urlsplit(base_url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    # Not shown: a user name, password or query may be a secret.
    if not usable or parts.username or parts.password or parts.query or parts.fragment:
        raise UserError(
            "base_url: need http:// or https://, a host and perhaps a path, without user, password or query; "
            "give the key as api_key or in OPENAI_API_KEY"
        )
    return base_url.rstrip("/")


def _checked_key(key: str | None, base_url: str) -> str | None:
    if key is None and base_url == OPENAI:
        raise UserError("api_key: got none; set OPENAI_API_KEY, or base_url for a server of your own")
    if key is not None and not (key.isascii() and key.isprintable() and key == key.strip()):
        raise UserError("api_key: holds a line end or another character that no header can carry; copy it anew")
    return key


def _modules() -> tuple[ModuleType, ModuleType]:
    """The client's package and the HTTP package under it."""
    if find_spec("openai") is None:
        raise UserError("openai is not installed; pip install 'tenfold[tools]'")
    openai = import_module("openai")
    return openai, import_module("httpx2" if int(openai.__version__.split(".")[0]) >= 3 else "httpx")
