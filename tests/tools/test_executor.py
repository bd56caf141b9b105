"""The sandbox: thirty ways out that lead nowhere, and the tools that run in it as they should."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tenfold.core.errors import UserError
from tenfold.tools.executor import LocalExecutor, SubprocessExecutor, shown
from tenfold.tools.tool import Tool, ToolRegistry
from tenfold.tools.trace import ToolResult

sys.path.append(str(Path(__file__).parent))
import tool_functions

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the sandbox is Linux's")
TOOLS = ToolRegistry.from_functions([tool_functions.add, tool_functions.execute, tool_functions.wait])


def run(code: str, **options: Any) -> ToolResult:
    executor = SubprocessExecutor(**{"timeout": 2.0, **options})
    return asyncio.run(executor.run(TOOLS.get("execute"), {"code": code}))


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A file that no tool may touch, with a secret in it and in the environment."""
    path = tmp_path / "secret.txt"
    path.write_text("s3cr3t-value")
    os.environ["TENFOLD_TEST_API_KEY"] = "s3cr3t-value"
    yield path
    del os.environ["TENFOLD_TEST_API_KEY"]
    assert path.read_text() == "s3cr3t-value" and sorted(tmp_path.iterdir()) == [path]


ESCAPES = {
    "read a file": "result = open(OUTSIDE).read()",
    "read the password file": "result = open('/etc/passwd').read()",
    "write beside it": "open(OUTSIDE + '.new', 'w').write('x')",
    "overwrite it": "open(OUTSIDE, 'w').write('x')",
    "remove it": "import os; os.remove(OUTSIDE)",
    "rename it": "import os; os.rename(OUTSIDE, 'mine')",
    "hard link it": "import os; os.link(OUTSIDE, 'mine'); result = open('mine').read()",
    "through a symlink": "import os; os.symlink(OUTSIDE, 'link'); result = open('link').read()",
    "through a symlink of a folder": "import os; os.symlink('/', 'root'); result = open('root' + OUTSIDE).read()",
    "through dots": "result = open('../' * 20 + OUTSIDE).read()",
    "list the root's home": "import os; result = os.listdir(os.path.dirname(OUTSIDE))",
    "own environment": "import os; result = 'no' if 's3cr3t' not in str(os.environ) else os.environ",
    "the parent's environment": "import os; result = open(f'/proc/{os.getppid()}/environ').read()",
    "the parent's memory": "import os; result = open(f'/proc/{os.getppid()}/mem', 'rb').read(1)",
    "trace the parent": "import ctypes, os; result = 'no' if ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) < 0 else 'in'; result = result * 1 if result == 'in' else 'no'",
    "kill the parent": "import os, signal; os.kill(os.getppid(), signal.SIGTERM)",
    "a shell": "import subprocess; result = subprocess.run(['/bin/sh', '-c', 'id'], capture_output=True).stdout",
    "os.system": "import os; result = 'no' if os.system('id') != 0 else 'in'",
    "fork": "import os; os.fork()",
    "a fork bomb": "import os\nwhile True: os.fork()",
    "replace itself": "import os; os.execv('/bin/sh', ['sh'])",
    "a connection": "import socket; socket.create_connection(('127.0.0.1', PORT), 1); result = 'in'",
    "a server": "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); result = 'in'",
    "a raw socket": "import ctypes; result = 'in' if ctypes.CDLL(None).socket(2, 1, 0) >= 0 else 'no'",
    "much memory": "x = bytearray(2 << 30); result = 'in'",
    "memory bit by bit": "x = []\nwhile True: x.append(bytearray(1 << 20))",
    "an endless loop": "while True: pass",
    "sleep for ever": "import time; time.sleep(1000)",
    "a flood of output": "print('x' * 100_000_000)",
    "a huge result": "result = 'x' * 10_000_000",
    "a huge file": "f = open('big', 'wb')\nfor _ in range(200): f.write(bytes(1 << 20))\nresult = 'in'",
    "raise its limits": "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1)); result = 'in'",
    "new namespaces": "import ctypes; result = 'in' if ctypes.CDLL(None).unshare(0x10000000) == 0 else 'no'",
    "end without a word": "import os; os._exit(0)",
    "crash": "import ctypes; ctypes.string_at(0)",
    "ask at the keyboard": "result = input()",
    "leave": "import sys; sys.exit('bye')",
}


@pytest.mark.parametrize("attempt", ESCAPES)
def test_no_way_out(attempt: str, outside: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        code = ESCAPES[attempt].replace("OUTSIDE", repr(str(outside))).replace("PORT", str(server.getsockname()[1]))
        begun = time.perf_counter()
        result = run(code)
    assert result.is_error or result.content == "no", result
    assert "s3cr3t" not in result.content
    if result.kind == "timeout":
        assert time.perf_counter() - begun < 2.0 + 3.0  # a slow machine's start of Python included
    assert not _children(), "a process was left behind"


def _children() -> str:
    return subprocess.run(["ps", "--ppid", str(os.getpid()), "-o", "args="], capture_output=True, text=True).stdout.replace("ps --ppid", "").count("sandbox_child") * "x"  # fmt: skip


def test_a_flood_that_nobody_reads_ends_with_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    async def late(stream: asyncio.StreamReader, most: int) -> bool:
        await asyncio.sleep(0.5)  # the pipe and its buffer are full by then
        return True

    monkeypatch.setattr("tenfold.tools.executor._printed", late)
    found = run("while True: print('x' * 100_000)")
    assert (found.kind, found.is_error) == ("truncated", True)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("1 / 0", "exception"),
        ("while True: pass", "timeout"),
        ("print('x' * 10_000_000)", "truncated"),
        ("import os; os._exit(1)", "died"),
        ("raise KeyboardInterrupt", "exception"),
    ],
)
def test_how_a_call_failed(code: str, kind: str) -> None:
    result = run(code)
    assert (result.is_error, result.kind) == (True, kind)


def test_what_a_tool_may_do() -> None:
    executor = SubprocessExecutor()
    assert asyncio.run(executor.run(TOOLS.get("add"), {"a": 2, "b": 3}, "c1")).content == "5"
    assert asyncio.run(executor.run(TOOLS.get("wait"), {"seconds": 0.01})).content == "waited"
    code = "open('mine', 'w').write('x'); import json, threading, tempfile, decimal\nt = threading.Thread(target=print); t.start(); t.join(); result = open('mine').read()"
    assert run(code).content == "x"


def test_the_clock_of_a_call_does_not_run_while_python_starts() -> None:
    begun = time.perf_counter()
    result = run("import time; time.sleep(60)", timeout=0.5)
    assert result.kind == "timeout" and 0.5 <= time.perf_counter() - begun < 5


def test_functions_that_cannot_be_sent() -> None:
    local = Tool(name="f", fn=lambda: 1)
    result = asyncio.run(SubprocessExecutor().run(local, {}))
    assert result.is_error and "need a function of a module" in result.content
    assert "described only" in asyncio.run(SubprocessExecutor().run(Tool(name="f"), {})).content
    with pytest.raises(ValueError, match="timeout: got 0"):
        SubprocessExecutor(timeout=0)


def test_another_machine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UserError, match="needs Linux"):
        SubprocessExecutor()


def test_tools_in_this_process() -> None:
    executor = LocalExecutor(timeout=0.2)

    def slow() -> None:
        time.sleep(0.6)

    def wrong() -> None:
        raise OSError("no\nway")

    assert asyncio.run(executor.run(Tool(name="s", fn=slow), {})).kind == "timeout"
    failed = asyncio.run(executor.run(Tool(name="w", fn=wrong), {}))
    assert (failed.kind, failed.content) == ("exception", "OSError: no way")
    assert "described only" in asyncio.run(executor.run(Tool(name="d"), {})).content
    assert asyncio.run(executor.run(TOOLS.get("add"), {"a": 1})).content == "2"


def test_a_tool_that_leaves_ends_its_own_call_only() -> None:
    def leaves() -> None:
        raise SystemExit(7)

    failed = asyncio.run(LocalExecutor().run(Tool(name="l", fn=leaves), {}))
    assert (failed.kind, failed.content) == ("exception", "RuntimeError: SystemExit: 7")


LOOPS = """
import asyncio
from tenfold.tools.executor import LocalExecutor
from tenfold.tools.tool import Tool

def loop():
    while True:
        pass

print(asyncio.run(LocalExecutor(timeout=0.3).run(Tool(name="loop", fn=loop), {})).kind)
"""


def test_a_tool_that_never_ends_does_not_keep_the_process_from_ending() -> None:
    ended = subprocess.run([sys.executable, "-c", LOOPS], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (0, "timeout\n"), ended.stderr


def test_results_as_text() -> None:
    assert shown({"a": [1, "é"]}) == '{"a": [1, "é"]}'
    assert shown("\ud800") == "?"
    assert shown("x" * 70_000).endswith("[cut: 70000 characters]")
    loop: list = []
    loop.append(loop)
    assert shown(loop) == "[[...]]"
