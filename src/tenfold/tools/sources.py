"""Tools by the place where a user has them: a JSON file of any usual form, a Python file, an MCP server, an address."""

from __future__ import annotations

import importlib.util
import inspect
import json
import sys
import traceback
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tenfold.core.config import read_json
from tenfold.core.errors import UserError
from tenfold.tools.mcp_client import McpSession
from tenfold.tools.tool import UNMARKED, Tool, ToolRegistry

MCP, OPENAPI = "mcp:", "openapi:"
_LARGEST = 8 << 20  # bytes of a document that is fetched


@contextmanager
def open_tools(place: str) -> Iterator[ToolRegistry]:
    """The tools of a place; servers are closed afterwards.

    Args:
        place: `mcp:COMMAND` or `mcp:URL`; the URL or file of an OpenAPI document (`openapi:` may stand before it); a JSON
            file of OpenAI's, Anthropic's or MCP's tools, or of signatures; JSON Lines of ToolDEER's catalogue; a Python
            file, whose public functions with a docstring are the tools. A function whose attribute `side_effects` is True
            changes something; one that has no such attribute is tagged "unmarked".
    Raises:
        UserError: nothing there, or nothing that has tools.
    """
    if place.startswith(MCP):
        if not place.removeprefix(MCP).strip():
            raise UserError("--tools: got mcp: alone, need mcp:COMMAND or mcp:URL")
        with McpSession(place.removeprefix(MCP)) as session:
            yield ToolRegistry.from_mcp(session)
        return
    place = place.removeprefix(OPENAPI)
    if place.startswith(("http://", "https://")):
        document = _fetched(place)
        yield ToolRegistry.from_openapi(document, base_url=None if _absolute(document) else _root(place))
        return
    path = Path(place)
    if not path.is_file():
        raise UserError(f"--tools: no file {place}; need a file, a URL of an OpenAPI document, or mcp:COMMAND")
    if path.suffix == ".py":
        yield _functions(path)
    elif path.suffix == ".jsonl":
        from tenfold.tools.data import read_tools

        yield ToolRegistry(entry.tool for entry in read_tools(path)[0])
    else:
        yield of_json(read_json(path), str(path))


def of_json(data: Any, where: str) -> ToolRegistry:
    """Tools of parsed JSON, in whichever usual form they are."""
    if isinstance(data, dict) and "openapi" in data:
        return ToolRegistry.from_openapi(data)
    rows = data.get("tools") if isinstance(data, dict) else data
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{where}: need a list of tools, an MCP tools/list result or an OpenAPI 3 document")
    first = rows[0]
    if odd := next((index for index, row in enumerate(rows) if type(row) is not type(first)), None):
        raise UserError(
            f"{where}: tools[{odd}]: got {type(rows[odd]).__name__}, need {type(first).__name__} as tools[0]"
        )
    if isinstance(first, str):
        return ToolRegistry(tool for signature in rows for tool in ToolRegistry.from_signature(signature))
    if not isinstance(first, dict):
        raise UserError(f"{where}: tools[0]: got {type(first).__name__}, need an object or a signature")
    if "inputSchema" in first:
        return ToolRegistry.from_mcp(rows)
    if "input_schema" in first:
        return ToolRegistry.from_anthropic(rows)
    if "api_function" in first:
        from tenfold.tools.data import read_tool

        return ToolRegistry(read_tool(row, f"{where}: tools[{index}]").tool for index, row in enumerate(rows))
    return ToolRegistry.from_openai(rows)


def _functions(path: Path) -> ToolRegistry:
    """A user's own file is imported, as Python would."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UserError(f"--tools: {path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)  # the sandbox finds a function's file by its module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a user's file may do anything
        if sys.modules.get(path.stem) is module:
            del sys.modules[path.stem]
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == spec.origin]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        place = f"{path}:{line}" if line else str(path)
        said = error.msg if isinstance(error, SyntaxError) else error
        raise UserError(f"--tools: {place}: {type(error).__name__}: {said}") from None
    own = [each for name, each in vars(module).items() if inspect.isfunction(each) and each.__module__ == module.__name__ and not name.startswith("_") and each.__doc__]  # fmt: skip
    if not own:
        raise UserError(f"--tools: {path} has no public function with a docstring")
    tools: list[Tool] = []
    for function in own:
        marked = isinstance(getattr(function, "side_effects", None), bool)
        tools += ToolRegistry.from_functions([function], tags=() if marked else (UNMARKED,))
    return ToolRegistry(tools)


def _fetched(url: str) -> Any:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            content = answer.read(_LARGEST + 1)
    except (OSError, ValueError) as error:
        raise UserError(f"--tools: {url}: {getattr(error, 'reason', error)}") from None
    if len(content) > _LARGEST:
        raise UserError(f"--tools: {url} is longer than {_LARGEST >> 20} MB")
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise UserError(f"--tools: {url} is no JSON") from None


def _absolute(document: Any) -> bool:
    """Whether a document says itself where its server is."""
    servers = document.get("servers") if isinstance(document, dict) else None
    return bool(servers and str(servers[0].get("url", "")).startswith("http"))


def _root(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"
