"""What carries calls out: in this process, or each in a sandboxed process of its own."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from tenfold.core.errors import UserError
from tenfold.tools.tool import Tool
from tenfold.tools.trace import Failure, ToolResult

SHOWN = 64_000  # characters of a result that a model is shown
CHILD = Path(__file__).with_name("sandbox_child.py")
_GRACE = 20.0  # seconds in which Python must have started and confined itself, before the call's own clock runs


class Executor(Protocol):
    """Carries out calls that were checked before."""

    async def run(self, tool: Tool, arguments: Mapping[str, Any], id: str = "") -> ToolResult:
        """The result; a failure is a result too."""
        ...


class LocalExecutor:
    """Runs a tool's function in this process, plain ones on a thread: for tools that are trusted.

    Args:
        timeout: seconds after which the result is a timeout. A plain function cannot be stopped: it runs on, unheard, until
            this process ends. An async function that never awaits holds up everything.
    """

    def __init__(self, timeout: float = 60.0) -> None:
        if not timeout > 0:
            raise ValueError(f"timeout: got {timeout}, need more than 0 seconds")
        self.timeout = timeout

    async def run(self, tool: Tool, arguments: Mapping[str, Any], id: str = "") -> ToolResult:
        """Call the function."""
        begun = time.perf_counter()
        if tool.fn is None:
            return ToolResult(id, tool.name, "this tool is described only, nothing runs it", True, "exception")
        try:
            value = await asyncio.wait_for(_called(tool.fn, arguments), self.timeout)
        except TimeoutError:
            return ToolResult(id, tool.name, f"no result after {self.timeout:g} s", True, "timeout", time.perf_counter() - begun)  # fmt: skip
        except Exception as error:  # noqa: BLE001 - a tool may fail in every way
            said = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
            return ToolResult(id, tool.name, said, True, "exception", time.perf_counter() - begun)
        failed = isinstance(value, McpFailure)
        kind: Failure | None = "exception" if failed else None
        return ToolResult(id, tool.name, shown(value), failed, kind, time.perf_counter() - begun)


class McpFailure(str):
    """The text of a result that an MCP server marks with `isError`."""


async def _called(function: Any, arguments: Mapping[str, Any]) -> Any:
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None)):  # noqa: B004
        return await function(**arguments)
    value = await _on_a_thread(function, arguments)
    return await value if inspect.isawaitable(value) else value


async def _on_a_thread(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Like `asyncio.to_thread`, but a function that never ends does not keep the process from ending."""
    loop, context = asyncio.get_running_loop(), contextvars.copy_context()
    outcome: asyncio.Future[tuple[Any, Exception | None]] = loop.create_future()

    def settle(value: Any, error: Exception | None) -> None:
        if not outcome.done():
            outcome.set_result((value, error))

    def work() -> None:
        value, failure = None, None
        try:
            value = context.run(function, **arguments)
        except Exception as error:  # noqa: BLE001 - a tool may fail in every way
            failure = error
        except BaseException as error:  # noqa: BLE001 - a tool that leaves ends its own call, not this process
            failure = RuntimeError(f"{type(error).__name__}: {error}")
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, value, failure)

    threading.Thread(target=work, name="tenfold tool", daemon=True).start()
    value, error = await outcome
    if error is not None:
        raise error
    return value


def shown(value: Any) -> str:
    """A result as a model is shown it: text as it is, all else as JSON, cut to 64 000 characters."""
    if not isinstance(value, str):
        try:
            value = json.dumps(value, ensure_ascii=False, default=str)
        except (ValueError, RecursionError):
            value = repr(value)
    value = value.encode("utf-8", "replace").decode()
    return value if len(value) <= SHOWN else f"{value[:SHOWN]} [cut: {len(value)} characters]"


class SubprocessExecutor:
    """Runs each call in a process of its own that can do little: Linux with Landlock and seccomp.

    The process reads Python, the packages and the tool's own package or file, writes only to a folder that is removed
    afterwards, has no network, makes no other processes, inherits no environment, and has its limits of memory, CPU
    seconds, output and time. Its memory limit counts address space, so a tool that imports torch needs gigabytes.

    Args:
        timeout: seconds of a call; then the process is killed.
        memory_mb, cpu_s: of the process.
        network: whether it may open sockets.
        max_output: bytes that it may print, and bytes of its result.
    Raises:
        UserError: a kernel that cannot confine processes like that.
    """

    def __init__(self, timeout: float = 10, memory_mb: int = 512, cpu_s: int = 10, network: bool = False, max_output: int = 64_000) -> None:  # fmt: skip
        for name, value in (
            ("timeout", timeout),
            ("memory_mb", memory_mb),
            ("cpu_s", cpu_s),
            ("max_output", max_output),
        ):
            if not value > 0:
                raise ValueError(f"{name}: got {value}, need more than 0")
        if not sys.platform.startswith("linux") or platform.machine() not in ("x86_64", "aarch64"):
            raise UserError("sandbox: needs Linux on x86_64 or aarch64; LocalExecutor runs tools that you trust")
        self.timeout, self.memory_mb, self.cpu_s = timeout, memory_mb, cpu_s
        self.network, self.max_output = network, max_output

    async def run(self, tool: Tool, arguments: Mapping[str, Any], id: str = "") -> ToolResult:
        """Start a process, have it call the function, kill it."""
        begun = time.perf_counter()
        try:
            request = self._request(tool, arguments)
        except UserError as error:
            return ToolResult(id, tool.name, str(error), True, "exception")
        folder = tempfile.mkdtemp(prefix="tenfold-tool-")
        read, write = os.pipe()
        try:
            content, kind = await self._converse(request, folder, read, write)
        finally:
            os.close(read)
            shutil.rmtree(folder, ignore_errors=True)
        return ToolResult(id, tool.name, content, kind is not None, kind, time.perf_counter() - begun)

    def _request(self, tool: Tool, arguments: Mapping[str, Any]) -> bytes:
        if tool.fn is None:
            raise UserError("this tool is described only, nothing runs it")
        module, name = getattr(tool.fn, "__module__", None), getattr(tool.fn, "__qualname__", "<")
        source = getattr(sys.modules.get(module or ""), "__file__", None)
        if module is None or source is None or "<" in name:
            raise UserError(f"{tool.name}: need a function of a module or file to run it in a process of its own")
        package = module.partition(".")[0]
        top = getattr(sys.modules.get(package), "__path__", None)
        readable = [str(each) for each in top] if top else [os.path.abspath(source)]
        spec = {
            "module": module if top or module == "__main__" else "",
            "root": str(Path(readable[0]).parent) if top else "",
            "file": os.path.abspath(source),
            "name": name,
            "arguments": dict(arguments),
            "readable": readable,
            "memory": self.memory_mb << 20,
            "cpu": self.cpu_s,
            "network": self.network,
            "most": self.max_output,
        }
        return json.dumps(spec).encode()

    async def _converse(self, request: bytes, folder: str, read: int, write: int) -> tuple[str, Failure | None]:
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": folder,
            "TMPDIR": folder,
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
        }
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                str(CHILD),
                str(write),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                pass_fds=(write,),
                start_new_session=True,
                cwd=folder,
                env=environment,
            )
        finally:
            os.close(write)
        answer = _Pipe(read, self.max_output + 1024)
        loop = asyncio.get_running_loop()
        loop.add_reader(read, answer.feed)
        try:
            return await self._outcome(process, request, answer)
        finally:
            loop.remove_reader(read)
            _kill(process)
            # asyncio tells of the end once all pipes are at theirs; a full one that nobody reads never is.
            await asyncio.gather(_drained(process.stdout), process.wait())

    async def _outcome(
        self, process: asyncio.subprocess.Process, request: bytes, answer: _Pipe
    ) -> tuple[str, Failure | None]:
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(request)
            await process.stdin.drain()
            process.stdin.close()
        except (BrokenPipeError, ConnectionResetError):
            return "the process died at once", "died"
        printed = asyncio.create_task(_printed(process.stdout, self.max_output))
        ended = asyncio.create_task(answer.ended.wait())
        try:
            await asyncio.wait_for(answer.ready.wait(), _GRACE)  # confined, the call begins
            await asyncio.wait({printed, ended}, timeout=self.timeout, return_when=asyncio.FIRST_COMPLETED)
            if printed.done() and printed.result():
                return f"it printed more than {self.max_output} bytes", "truncated"
            if not answer.ended.is_set():
                with_time = await asyncio.wait({ended}, timeout=0.2 if printed.done() else 0)
                if not with_time[0]:
                    return f"no result after {self.timeout:g} s", "timeout"
        except TimeoutError:
            return f"the process did not start within {_GRACE:g} s", "timeout"
        finally:
            printed.cancel()
            ended.cancel()
            await asyncio.wait({printed, ended})
        return answer.result(self.max_output)


class _Pipe:
    """What the child writes: a first line once it is confined, then one line of JSON."""

    def __init__(self, descriptor: int, most: int) -> None:
        self._descriptor, self._most = descriptor, most
        self._data = bytearray()
        self.ready, self.ended = asyncio.Event(), asyncio.Event()

    def feed(self) -> None:
        part = os.read(self._descriptor, 65_536)
        self._data += part
        if b"\n" in self._data or not part:
            self.ready.set()
        if not part or len(self._data) > self._most or self._data.count(b"\n") >= 2:
            self.ended.set()
            asyncio.get_running_loop().remove_reader(self._descriptor)

    def result(self, most: int) -> tuple[str, Failure | None]:
        lines = bytes(self._data).split(b"\n")
        if len(self._data) > self._most:
            return f"its result is longer than {most} bytes", "truncated"
        if len(lines) < 3:
            said = lines[0].decode("utf-8", "replace").strip()
            return (f"the process ended without a result{f': {said}' if said not in ('', 'ready') else ''}", "died")
        try:
            row = json.loads(lines[1])
            return shown(row["value"]), row["kind"] if row.get("kind") in ("exception", "truncated") else None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return "the process wrote no result", "died"


async def _printed(stream: asyncio.StreamReader, most: int) -> bool:
    """Whether more than `most` bytes come; what is printed is dropped."""
    count = 0
    while part := await stream.read(65_536):
        count += len(part)
        if count > most:
            return True
    return False


async def _drained(stream: asyncio.StreamReader | None) -> None:
    """Read what is left, to nobody."""
    while stream is not None and await stream.read(65_536):
        pass


def _kill(process: asyncio.subprocess.Process) -> None:
    for kill in (lambda: os.killpg(process.pid, signal.SIGKILL), process.kill):
        try:
            kill()
        except (ProcessLookupError, PermissionError):
            continue
