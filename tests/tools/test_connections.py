"""Tools of others: a real MCP server on its standard input and output, and OpenAPI documents whose server is real too."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tenfold.core.errors import UserError
from tenfold.text.chat import Reply, ScriptedChatModel, ToolCall, Usage
from tenfold.tools.agent import DecisionAgent, Policy
from tenfold.tools.executor import LocalExecutor
from tenfold.tools.mcp_client import McpSession
from tenfold.tools.tool import ToolRegistry
from tenfold.tools.trace import ToolResult

DOCUMENT = {
    "openapi": "3.0.3",
    "paths": {
        "/pets/{id}": {
            "parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}}],
            "get": {"operationId": "getPet", "summary": "A pet.", "parameters": [{"$ref": "#/components/parameters/tags"}]},
        },
        "/pets": {
            "post": {
                "operationId": "addPet",
                "requestBody": {"required": True, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Pet"}}}},
            },
            "put": {"requestBody": {"content": {"application/json": {"schema": {"type": "array", "items": {"type": "string"}}}}}},
            "delete": {"operationId": "fail"},
        },
    },
    "components": {
        "parameters": {"tags": {"name": "tags", "in": "query", "description": "kinds", "schema": {"type": "array", "items": {"type": "string"}}}},
        "schemas": {"Pet": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "friend": {"$ref": "#/components/schemas/Pet"}, "age": {"type": "integer", "nullable": True}}}},
    },
}  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status = 418 if self.command == "DELETE" else 200
        if self.path == "/big":
            data = b"x" * (2 << 20)
        else:
            data = json.dumps({"method": self.command, "path": self.path, "body": json.loads(body or b"null"), "key": self.headers.get("X-Key")}).encode()  # fmt: skip
        self.send_response(status)
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_DELETE = answer

    def log_message(self, *given: Any) -> None:
        pass


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def run(registry: ToolRegistry, name: str, /, **arguments: Any) -> ToolResult:
    assert not registry.validate({"name": name, "arguments": arguments})
    return asyncio.run(LocalExecutor().run(registry.get(name), arguments))


def test_operations_of_a_document(base_url: str) -> None:
    registry = ToolRegistry.from_openapi(DOCUMENT, base_url=base_url, headers={"X-Key": "k"})
    assert registry.names == ["getPet", "put_pets", "addPet", "fail"]
    assert [tool.side_effects for tool in registry] == [False, True, True, True]
    got = json.loads(run(registry, "getPet", id=3, tags=["a b", "c&d"]).content)
    assert got == {"method": "GET", "path": "/pets/3?tags=a+b&tags=c%26d", "body": None, "key": "k"}
    got = json.loads(run(registry, "addPet", name="Rex", friend={"name": "Tom"}, age=None).content)
    assert got["body"] == {"name": "Rex", "friend": {"name": "Tom"}, "age": None}
    assert json.loads(run(registry, "put_pets", body=["a"]).content)["body"] == ["a"]
    failed = run(registry, "fail")
    assert failed.is_error and "HTTP 418" in failed.content
    assert registry.validate({"name": "getPet", "arguments": {"id": "../x"}})[0].code == "type"


def test_an_agent_with_tools_of_a_document(base_url: str) -> None:
    registry = ToolRegistry.from_openapi(DOCUMENT, base_url=base_url)
    call = Reply("", "tool_calls", Usage(1, 1), (ToolCall("c", "addPet", '{"name": "Rex"}'),))
    model = ScriptedChatModel(["search", "addPet", call, "done"])
    trace = DecisionAgent(model, registry, k=4, policy=Policy(approve=lambda call, tool: True)).run("add a pet")
    assert trace.answer == "done" and "Rex" in trace.of(ToolResult)[0].content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"openapi": "2.0"}, "need a document of OpenAPI 3"),
        ({"paths": {"/a": {"get": {"parameters": [{"$ref": "other.json#/x"}]}}}}, "leaves the document"),
        (
            {"paths": {"/a": {"get": {"parameters": [{"$ref": "#/paths/~1a/get/parameters/0"}]}}}},
            "need an object|circle",
        ),
    ],
)
def test_documents_that_are_refused(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ToolRegistry.from_openapi({**DOCUMENT, **change})


def test_servers_that_do_not_answer_and_answers_that_are_too_long(base_url: str) -> None:
    document = {"openapi": "3.1.0", "paths": {"/big": {"get": {"operationId": "big"}}}}
    assert "longer than" in run(ToolRegistry.from_openapi(document, base_url=base_url), "big").content
    nowhere = run(ToolRegistry.from_openapi(document, base_url="http://127.0.0.1:1"), "big")
    assert nowhere.is_error and "no answer" in nowhere.content
    assert ToolRegistry.from_openapi(document).get("big").fn is None


def test_simulated_apis_of_toolalpaca(data_dir: Path) -> None:
    rows = json.loads((data_dir / "09-deer/toolalpaca_eval_simulated.json").read_text())
    registries = [ToolRegistry.from_openapi(json.loads(row["Documentation"])) for row in rows]
    assert len(registries) == 10 and all(len(registry) for registry in registries)
    assert sum(map(len, registries)) >= 30


@pytest.fixture(scope="module")
def session() -> Iterator[McpSession]:
    with McpSession(f"{sys.executable} -m mcp_server_time --local-timezone UTC", timeout=60) as opened:
        yield opened


def test_tools_of_a_real_mcp_server(session: McpSession) -> None:
    registry = ToolRegistry.from_mcp(session)
    assert registry.names == ["get_current_time", "convert_time"]
    assert registry.to_mcp() == session.tools_listed
    result = run(registry, "convert_time", source_timezone="Europe/Paris", time="12:00", target_timezone="Asia/Tokyo")
    assert not result.is_error and "Asia/Tokyo" in result.content
    failed = run(registry, "get_current_time", timezone="Nowhere/Land")
    assert failed.is_error and "Nowhere" in failed.content


def test_an_agent_with_tools_of_a_real_mcp_server(session: McpSession) -> None:
    call = Reply("", "tool_calls", Usage(1, 1), (ToolCall("c", "get_current_time", '{"timezone": "Europe/Paris"}'),))
    model = ScriptedChatModel(["search", "get_current_time", call, "It is late."])
    trace = DecisionAgent(model, ToolRegistry.from_mcp(session), k=2).run("what time is it in Paris?")
    assert trace.answer == "It is late." and "Europe/Paris" in trace.of(ToolResult)[0].content


@pytest.mark.parametrize("command", ["/nonexistent/server", "false", ""])
def test_servers_that_do_not_start(command: str) -> None:
    with pytest.raises(UserError, match="mcp: ") as refused:
        McpSession(command, timeout=30)
    assert "\n" not in str(refused.value)
