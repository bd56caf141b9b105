"""Tools of an OpenAPI 3 document, and the calls over HTTP that run them."""

from __future__ import annotations

import asyncio
import copy
import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tenfold.core.errors import UserError
from tenfold.tools.schemas import JSONSchema
from tenfold.tools.tool import SIDE_EFFECT, Tool

METHODS = ("get", "put", "post", "delete", "patch", "head", "options")
_READING = ("get", "head", "options")
LONGEST = 1 << 20  # bytes of an answer that are read
MOST = 2000  # operations of a document
_DEEPEST = 32  # references behind one another


def openapi_tools(
    document: Any,
    *,
    base_url: str | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = 30.0,
) -> Iterator[Tool]:
    """One tool an operation; its fields of path, query, header and body are the arguments.

    Args:
        document: OpenAPI 3, parsed.
        base_url: where the operations are; None: the document's first server, if it is an absolute address.
        headers: sent with every call, such as a key; no model sees them.
        timeout: seconds of a call.
    Raises:
        UserError: no OpenAPI 3, a reference that leaves the document or runs in a circle.
    """
    if not isinstance(document, Mapping) or not str(document.get("openapi", "")).startswith("3"):
        raise UserError("openapi: need a document of OpenAPI 3 (its field openapi says 3.x)")
    base = base_url or _server(document)
    count = 0
    paths = document.get("paths") or {}
    if not isinstance(paths, Mapping):
        raise UserError(f"openapi: paths: got {type(paths).__name__}, need an object")
    for path, item in paths.items():
        shared = item.get("parameters") or () if isinstance(item, Mapping) else ()
        for method in METHODS:
            operation = item.get(method) if isinstance(item, Mapping) else None
            if not isinstance(operation, Mapping):
                continue
            count += 1
            if count > MOST:
                raise UserError(f"openapi: got more than {MOST} operations; take a part of the document")
            try:
                tool = _tool(document, path, method, operation, shared, base, dict(headers or {}), timeout)
            except (AttributeError, TypeError) as error:  # a list in place of an object, and the like, at any depth
                raise UserError(f"openapi: {method.upper()} {path}: not as OpenAPI 3 has it ({error})") from error
            yield tool


@dataclass(frozen=True)
class _Request:
    """Runs one operation.

    Args:
        places: argument to where it goes (path, query, header or body), and its name there.
        whole: the argument that is the whole body; None where the body's fields are arguments of their own.
    """

    method: str
    url: str
    places: Mapping[str, tuple[str, str]]
    headers: Mapping[str, str]
    timeout: float
    whole: str | None = None

    async def __call__(self, **arguments: Any) -> Any:
        return await asyncio.to_thread(self.send, arguments)

    def send(self, arguments: Mapping[str, Any]) -> Any:
        """The answer, parsed where it is JSON. Raises RuntimeError with the server's words for a status of 400 or more."""
        url, body = self.url, {}
        query: list[tuple[str, str]] = []
        headers = dict(self.headers)
        for argument, value in arguments.items():
            place, name = self.places[argument]
            if place == "path":
                url = url.replace(f"{{{name}}}", urllib.parse.quote(_text(value), safe=""))
            elif place == "query":
                query += [(name, _text(each)) for each in (value if isinstance(value, list) else [value])]
            elif place == "header":
                headers[name] = re.sub(r"[\r\n]", " ", _text(value))
            else:
                body[name] = value
        if query:
            url += f"?{urllib.parse.urlencode(query)}"
        data = None
        if body:
            data = json.dumps(body if self.whole is None else body[self.whole]).encode()
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(url, data, headers, method=self.method.upper())
        try:
            with _OPENER.open(request, timeout=self.timeout) as answer:
                content = answer.read(LONGEST + 1)
        except urllib.error.HTTPError as error:
            said = " ".join(error.read(2000).decode("utf-8", "replace").split())[:300]
            raise RuntimeError(f"HTTP {error.code}: {said}") from None
        except (urllib.error.URLError, OSError) as error:
            raise RuntimeError(f"no answer: {getattr(error, 'reason', error)}") from None
        if len(content) > LONGEST:
            raise RuntimeError(f"the answer is longer than {LONGEST} bytes")
        text = content.decode("utf-8", "replace")
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A server must not send our key to another one."""

    def redirect_request(self, *arguments: Any, **options: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect())


def _server(document: Mapping[str, Any]) -> str | None:
    servers = document.get("servers")
    first = servers[0] if isinstance(servers, list) and servers else None
    url = first.get("url", "") if isinstance(first, Mapping) else ""
    return url if isinstance(url, str) and url.startswith(("http://", "https://")) else None


def _tool(
    document: Mapping[str, Any],
    path: str,
    method: str,
    operation: Mapping[str, Any],
    shared: Iterable[Any],
    base: str | None,
    headers: Mapping[str, str],
    timeout: float,
) -> Tool:
    where = f"openapi: {method.upper()} {path}"
    properties: dict[str, Any] = {}
    required: list[str] = []
    places: dict[str, tuple[str, str]] = {}
    for given in [*shared, *(operation.get("parameters") or ())]:
        parameter = _resolved(document, given, where)
        name, place = parameter.get("name"), parameter.get("in")
        if not isinstance(name, str) or place not in ("path", "query", "header"):
            continue  # a cookie is no argument
        schema = dict(_inlined(document, parameter.get("schema") or {}, where))
        if parameter.get("description"):
            schema.setdefault("description", parameter["description"])
        properties[name], places[name] = schema, (place, name)
        if parameter.get("required") or place == "path":
            required.append(name)
    whole = _body(document, operation, where, properties, required, places)
    parameters: JSONSchema = {"type": "object", "properties": properties, "required": list(dict.fromkeys(required)), "additionalProperties": False}  # fmt: skip
    name = operation.get("operationId") or re.sub(r"[\W_]+", "_", f"{method}_{path}").strip("_")
    about = operation.get("summary") or operation.get("description") or f"{method.upper()} {path}"
    fn = None if base is None else _Request(method, base.rstrip("/") + path, places, headers, timeout, whole)
    try:
        return Tool(name=name, description=str(about), parameters=parameters, fn=fn, source="openapi", tags=() if method in _READING else (SIDE_EFFECT,))  # fmt: skip
    except ValueError as error:
        said = error.errors()[0]["msg"] if hasattr(error, "errors") else error
        raise UserError(f"{where}: {' '.join(str(said).split())}") from None


def _body(
    document: Mapping[str, Any],
    operation: Mapping[str, Any],
    where: str,
    properties: dict[str, Any],
    required: list[str],
    places: dict[str, tuple[str, str]],
) -> str | None:
    """Add the fields of a JSON body to the arguments, as body_NAME where a parameter has the name; another body is one argument."""
    if "requestBody" not in operation:
        return None
    body = _resolved(document, operation["requestBody"], where)
    content = body.get("content") or {}
    media = content.get("application/json") or next((each for key, each in content.items() if "json" in key), None)
    if not isinstance(media, Mapping):
        return None
    schema = _inlined(document, media.get("schema") or {}, where)
    fields = schema.get("properties") if schema.get("type", "object") == "object" else None
    whole = None if fields else "body"
    names = {name: f"body_{name}" if name in places else name for name in (fields or {"body": schema})}
    for name, part in (fields or {"body": schema}).items():
        properties[names[name]], places[names[name]] = part, ("body", name)
    if fields:
        required += [names[name] for name in schema.get("required") or () if name in names]
    elif body.get("required"):
        required.append(names["body"])
    return whole


def _resolved(document: Mapping[str, Any], node: Any, where: str) -> Mapping[str, Any]:
    """Follow `$ref`s within the document."""
    for _ in range(_DEEPEST):
        if not isinstance(node, Mapping):
            raise UserError(f"{where}: got {type(node).__name__}, need an object")
        if "$ref" not in node:
            return node
        ref = str(node["$ref"])
        if not ref.startswith("#/"):
            raise UserError(f"{where}: $ref {ref[:80]!r} leaves the document; bundle it into one file")
        node = document
        for part in ref[2:].split("/"):
            key = part.replace("~1", "/").replace("~0", "~")
            node = node.get(key) if isinstance(node, Mapping) else None
    raise UserError(f"{where}: $ref runs in a circle")


def _inlined(document: Mapping[str, Any], node: Any, where: str, level: int = 0) -> Any:
    """A schema with its references replaced by what they name, and `nullable` by JSON Schema's words for it."""
    if isinstance(node, list):
        return [_inlined(document, each, where, level) for each in node]
    if not isinstance(node, Mapping):
        return copy.deepcopy(node)
    if level > _DEEPEST:
        return {}  # a schema that contains itself: below this level anything goes
    if "$ref" in node:
        return _inlined(document, _resolved(document, node, where), where, level + 1)
    schema = {
        key: _inlined(document, value, where, level + 1) for key, value in node.items() if key not in _OPENAPI_ONLY
    }
    if node.get("nullable") and isinstance(schema.get("type"), str):
        schema["type"] = [schema["type"], "null"]
    return schema


_OPENAPI_ONLY = ("nullable", "discriminator", "xml", "externalDocs", "example")


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else json.dumps(value)
