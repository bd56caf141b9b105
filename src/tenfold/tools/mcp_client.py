"""Tools of an MCP server: started on standard input and output, or reached at an address, and called from any thread."""

from __future__ import annotations

import asyncio
import os
import shlex
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from tenfold.core.errors import UserError
from tenfold.tools.executor import McpFailure
from tenfold.tools.schemas import DEEPEST, depth

MOST_TOOLS = 10_000


class McpSession:
    """An open session; `ToolRegistry.from_mcp(session)` are its tools, which run through it. Close it, or use `with`.

    Args:
        server: a command with its arguments, such as "python -m mcp_server_time"; an http(s) address; or what package
            mcp's `Client` takes.
        timeout: seconds to start, and of every call.
    Raises:
        UserError: mcp is not installed, or the server does not start.
    """

    def __init__(self, server: Any, timeout: float = 30.0) -> None:
        self.timeout = timeout
        self.tools_listed: dict[str, Any] = {"tools": []}
        self._client: Any = None
        self._stop = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._serve, args=(server,), name="tenfold mcp", daemon=True)
        self._thread.start()
        try:
            self._ready.result(timeout + 5)
        except TimeoutError:
            self.close()
            raise UserError(f"mcp: {_shown(server)} did not answer within {timeout:g} s") from None

    async def call_tool(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """The text of a tool's result, or its structured content; `McpFailure` where the server says that it failed."""
        work = asyncio.run_coroutine_threadsafe(self._call(name, dict(arguments)), self._loop)
        return await asyncio.wrap_future(work)

    def close(self) -> None:
        """End the session and the server."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(timeout=10)

    def __enter__(self) -> McpSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _serve(self, server: Any) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._session(server))
        except BaseException as error:  # noqa: BLE001 - whoever opened the session hears it
            if not self._ready.done():
                inner = _innermost(error)
                said = " ".join(str(inner).split())[:200] or type(inner).__name__
                self._ready.set_exception(inner if isinstance(inner, UserError) else UserError(f"mcp: {_shown(server)}: {said}"))  # fmt: skip
        finally:
            self._loop.close()

    async def _session(self, server: Any) -> None:
        with Path(os.devnull).open("w") as quiet:
            await self._converse(server, quiet)

    async def _converse(self, server: Any, quiet: TextIO) -> None:
        try:
            from mcp import Client
            from mcp.client.stdio import StdioServerParameters, stdio_client
        except ImportError:
            raise UserError("MCP servers need the package mcp: pip install 'tenfold[tools]'") from None
        if isinstance(server, str) and not server.startswith(("http://", "https://")):
            command = shlex.split(server)
            if not command:
                raise UserError("mcp: got an empty command, need one such as 'python -m mcp_server_time'")
            # Only the few variables that the package lets through: a server gets no key of ours. Its log is its own.
            server = stdio_client(StdioServerParameters(command=command[0], args=command[1:]), errlog=quiet)
        async with asyncio.timeout(self.timeout) as clock, Client(server, read_timeout_seconds=self.timeout) as client:
            self._client = client
            self.tools_listed = {"tools": await _listed(client)}
            clock.reschedule(None)
            self._ready.set_result(None)
            await self._stop.wait()

    async def _call(self, name: str, arguments: dict[str, Any]) -> Any:
        result = await self._client.call_tool(name, arguments)
        row = result.model_dump(by_alias=True, exclude_none=True, mode="json")
        texts = [
            part["text"] if part.get("type") == "text" else f"[{part.get('type')}]" for part in row.get("content", ())
        ]
        text = "\n".join(texts)
        if row.get("isError"):
            return McpFailure(text or "the server says that the call failed")
        structured = row.get("structuredContent")
        return text if structured is None or depth(structured) > DEEPEST else structured


async def _listed(client: Any) -> list[dict[str, Any]]:
    """All pages of tools/list."""
    rows: list[dict[str, Any]] = []
    cursor = None
    while len(rows) < MOST_TOOLS:
        page = (await client.list_tools(cursor=cursor)).model_dump(by_alias=True, exclude_none=True, mode="json")
        rows += page["tools"]
        cursor = page.get("nextCursor")
        if cursor is None:
            return rows
    raise UserError(f"mcp: the server lists more than {MOST_TOOLS} tools")


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _shown(server: Any) -> str:
    return repr(server)[:120] if isinstance(server, str) else type(server).__name__
