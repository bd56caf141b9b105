"""The official OpenAI client as a way to post one request: bounded, in any event loop, its errors told without the key."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from tenfold.core.errors import UserError
from tenfold.text.endpoint_errors import SECRET, EndpointError, Fault, from_status, shown

OPENAI = "https://api.openai.com/v1"


class Connection:
    """An address and its key; each event loop that posts gets a client of its own, which closes with the loop.

    Args:
        base_url: None takes OPENAI_BASE_URL, else OpenAI's own.
        api_key: None takes OPENAI_API_KEY.
        timeout: seconds of one request.
        max_bytes: the longest body that is read.
    Raises:
        UserError: openai or aiohttp is not installed, no key for OpenAI's own address, or an address that is none.
    """

    def __init__(self, base_url: str | None, api_key: str | None, timeout: float, max_bytes: int) -> None:
        if timeout <= 0:
            raise ValueError(f"timeout: got {timeout}, need seconds > 0")
        self.base_url = _checked_address(base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI)
        self._key = _checked_key(api_key or os.environ.get("OPENAI_API_KEY"), self.base_url)
        self._timeout = timeout
        self._max_bytes = max_bytes
        # Said again for each request: what is not said costs the client a deep copy of its sign for that.
        self._options = {"max_retries": 0, "timeout": timeout, "headers": {}}
        self._openai, self._http = _modules()
        self._clients: dict[asyncio.AbstractEventLoop, tuple[Any, AsyncGenerator[Any, None]]] = {}
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
        client = await self._client()
        # Errors are raised `from None`: the client's own carry all that a server said, and the request with its key.
        try:
            async with asyncio.timeout(self._timeout):
                response = await client.post(path, body=body, cast_to=self._http.Response, options=self._options)
        except TimeoutError:
            raise Fault(f"no answer within {self._timeout:g} s") from None
        except self._openai.APIStatusError as error:
            retry_after = error.response.headers.get("retry-after")
            raise from_status(error.status_code, error.body, retry_after, where, self._key) from None
        except (self._openai.APIConnectionError, _TooLongError) as error:
            cause = _first_cause(error)
            if isinstance(cause, _TooLongError):
                raise EndpointError(f"{where}: the body is longer than max_bytes={self._max_bytes}") from None
            if isinstance(cause, TimeoutError):
                raise Fault(f"no answer within {self._timeout:g} s") from None
            reason = shown(f"{type(cause).__name__}: {cause}", self._key)
            raise Fault(f"connection failed: {reason}") from None
        content: bytes = response.content
        if self._key is not None and len(self._key) >= SECRET:  # a server may repeat it in a reply, too
            content = content.replace(self._key.encode(), b"***")
        return content, response.headers.get("content-type", "")

    async def _client(self) -> Any:
        loop = asyncio.get_running_loop()
        with self._lock:
            if loop not in self._clients:
                for closed in [known for known in self._clients if known.is_closed()]:
                    del self._clients[closed]
                life = _connected(self._openai, self._http, self.base_url, self._key, self._timeout, self._max_bytes)
                # The generator must live as long as its client. It reaches its yield without giving up the loop.
                self._clients[loop] = (await anext(life), life)
            return self._clients[loop][0]


async def _connected(
    openai: ModuleType, http: ModuleType, base_url: str, key: str | None, timeout: float, max_bytes: int
) -> AsyncGenerator[Any, None]:
    """Yield a client and close it with the loop, or when nobody holds it any more: loops close the asynchronous generators
    that they started. So nothing here may lead back to the `Connection`.
    """
    bounded = _bounded_stream(http)

    async def bound(response: Any) -> None:
        """Before a body is read: it is never unpacked, since a small one can unpack to any size, and not read whole."""
        response.headers.pop("content-encoding", None)
        response.stream = bounded(response.stream, max_bytes)

    # Over aiohttp: the default pool looks through all its connections for every request, a third of what one costs among 64.
    http_client = openai.DefaultAioHttpClient(
        limits=http.Limits(max_connections=0),  # no limit
        headers={"accept-encoding": "identity"},
        event_hooks={"response": [bound]},
    )
    client = openai.AsyncOpenAI(
        api_key=key or "none", base_url=base_url, timeout=timeout, max_retries=0, http_client=http_client
    )
    try:
        yield client
    finally:
        await client.close()


class _TooLongError(Exception):
    pass


def _first_cause(error: BaseException) -> BaseException:
    """What an error came of: on the way the client calls a refused connection a timeout."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


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
    if find_spec("openai") is None or find_spec("aiohttp") is None:
        raise UserError("openai with aiohttp is not installed; pip install 'tenfold[tools]'")
    openai = import_module("openai")
    return openai, import_module("httpx2" if int(openai.__version__.split(".")[0]) >= 3 else "httpx")
