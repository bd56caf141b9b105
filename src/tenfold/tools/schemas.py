"""JSON Schemas of arguments: what is local, what a value breaks, BFCL's names of types."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

JSONSchema = dict[str, Any]
DEEPEST = 64  # levels of a value
_CODES = {
    "type": "type",
    "enum": "enum",
    "const": "enum",
    "required": "missing_arg",
    "additionalProperties": "unknown_arg",
    "unevaluatedProperties": "unknown_arg",
}


@dataclass(frozen=True)
class Issue:
    """What is wrong with a call.

    Args:
        code: name, missing_arg, unknown_arg, type, enum, number, or the schema's keyword.
        pointer: JSON pointer to the value within the arguments; "" is all of them.
        message: in words, one line.
    """

    code: str
    pointer: str
    message: str


def check_schema(schema: Any, where: str = "parameters") -> None:
    """Refuse what is no JSON Schema (Draft 2020-12), or points outside itself.

    Raises:
        ValueError: no object, a malformed keyword, a remote or dangling `$ref`; one line.
    """
    if not isinstance(schema, Mapping):
        raise ValueError(f"{where}: got {type(schema).__name__}, need a JSON Schema object")
    if _is_plain(schema):
        return
    for ref in _refs(schema):
        if not ref.startswith("#"):
            raise ValueError(f"{where}: $ref {ref[:80]!r} is remote, need one within the schema (#/...)")
        _resolve(schema, ref, where)
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise ValueError(f"{where}: {_line(error.message)}") from None


_KINDS = ("string", "integer", "number", "boolean", "array", "object", "null")


def _is_plain(node: Any) -> bool:
    """Whether a schema has only the everyday keywords, rightly used: held against the whole metaschema it takes 10 ms."""
    return isinstance(node, dict) and all(key in _PLAIN and _PLAIN[key](value) for key, value in node.items())


def _is_type(value: Any) -> bool:
    kinds = [value] if isinstance(value, str) else value
    return isinstance(kinds, list) and bool(kinds) and len(set(map(str, kinds))) == len(kinds) and all(kind in _KINDS for kind in kinds)  # fmt: skip


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value) and len(set(value)) == len(value)


_PLAIN: dict[str, Callable[[Any], bool]] = {
    "type": _is_type,
    "properties": lambda value: isinstance(value, dict) and all(map(_is_plain, value.values())),
    "items": _is_plain,
    "required": _is_names,
    "additionalProperties": lambda value: isinstance(value, bool) or _is_plain(value),
    "enum": lambda value: isinstance(value, list),
    "default": lambda value: True,
    "description": lambda value: isinstance(value, str),
}


def issues(schema: Mapping[str, Any], value: Any) -> list[Issue]:
    """Everything that a value breaks; the verdict is that of package jsonschema, but that numbers must be finite.

    Args:
        schema: of `check_schema`.
        value: of JSON's types.
    """
    found = [
        Issue(
            _CODES.get(str(error.validator), str(error.validator)), _pointer(error.absolute_path), _line(error.message)
        )
        for error in _validator(json.dumps(schema, sort_keys=True, default=str)).iter_errors(value)
    ]
    found += [Issue("number", pointer, f"got {number}, need a finite number") for pointer, number in _infinite(value)]
    return sorted(found, key=lambda issue: (issue.pointer, issue.code))


@lru_cache(maxsize=4096)
def _validator(schema: str) -> Draft202012Validator:
    from jsonschema import Draft202012Validator
    from referencing import Registry

    # An empty registry of its own: jsonschema would otherwise look remote references up.
    return Draft202012Validator(json.loads(schema), registry=Registry())


def normalise(schema: Mapping[str, Any], value: Any) -> Any:
    """A valid value with whole numbers such as 3.0 as integers, where the schema says integer."""
    kind = schema.get("type")
    if isinstance(value, float) and value.is_integer() and (kind == "integer" or (isinstance(kind, list) and "integer" in kind and "number" not in kind)):  # fmt: skip
        return int(value)
    if isinstance(value, dict):
        properties = schema.get("properties") or {}
        return {key: normalise(properties.get(key) or {}, item) for key, item in value.items()}
    if isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        return [normalise(schema["items"], item) for item in value]
    return value


def coerce(schema: Mapping[str, Any], value: Any) -> Any:
    """A value with the lossless conversions that its schema asks for: "3" to 3, "true" to true, 3 to "3"."""
    kind = schema.get("type")
    if isinstance(value, dict):
        properties = schema.get("properties") or {}
        return {key: coerce(properties.get(key) or {}, item) for key, item in value.items()}
    if isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        return [coerce(schema["items"], item) for item in value]
    if isinstance(value, str) and kind in ("integer", "number", "boolean"):
        return _read(value, kind)
    if kind == "string" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value


def _read(text: str, kind: str) -> Any:
    if kind == "boolean":
        return {"true": True, "false": False}.get(text, text)
    try:
        number = int(text) if kind == "integer" else float(text)
    except ValueError:
        return text
    whole = str(int(number)) if math.isfinite(number) and number == int(number) else ""
    lossless = text == str(number) or (kind == "number" and text == whole)
    return number if lossless and math.isfinite(number) else text


def depth(value: Any) -> int:
    """Levels of a value: 0 for a number, 1 for a flat list."""
    level, layer = 0, [value]
    while layer := [item for each in layer for item in _children(each)]:
        level += 1
    return level + (1 if isinstance(value, dict | list) and not value else 0)


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else []


# BFCL's names of types.

_FROM_BFCL = {"dict": "object", "float": "number", "tuple": "array"}
_TO_BFCL = {name: bfcl for bfcl, name in _FROM_BFCL.items() if bfcl != "tuple"}
_OF_BFCL = ("title", "optional")  # keys that JSON Schema does not know, or that say nothing


def from_bfcl(node: Mapping[str, Any]) -> JSONSchema:
    """A parameter object of BFCL as JSON Schema: dict, float, tuple, any become object, number, array, {}."""
    schema = {key: value for key, value in node.items() if key not in _OF_BFCL}
    kind = node.get("type")
    if kind == "any":
        del schema["type"]
    elif kind in _FROM_BFCL:
        schema["type"] = _FROM_BFCL[kind]
        if kind == "tuple":
            schema["x-tuple"] = True
    if isinstance(node.get("properties"), Mapping):
        schema["properties"] = {name: from_bfcl(part) for name, part in node["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), Mapping):
            schema[key] = from_bfcl(node[key])
    return schema


def to_bfcl(schema: Mapping[str, Any]) -> dict[str, Any]:
    """JSON Schema in BFCL's names of types; `from_bfcl` reads it back."""
    node = {key: value for key, value in schema.items() if key != "x-tuple"}
    kind = schema.get("type")
    if not isinstance(kind, list):  # several types: BFCL has no name for them
        node["type"] = "any" if kind is None else "tuple" if schema.get("x-tuple") else _TO_BFCL.get(kind, kind)
    if isinstance(schema.get("properties"), Mapping):
        node["properties"] = {name: to_bfcl(part) for name, part in schema["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), Mapping):
            node[key] = to_bfcl(schema[key])
    return node


def _refs(node: Any) -> Iterator[str]:
    layer = [node]
    while layer:
        each = layer.pop()
        if isinstance(each, Mapping) and isinstance(each.get("$ref"), str):
            yield each["$ref"]
        layer += list(each.values()) if isinstance(each, Mapping) else each if isinstance(each, list) else []


def _resolve(schema: Mapping[str, Any], ref: str, where: str) -> Any:
    node: Any = schema
    for part in ref.removeprefix("#").strip("/").split("/") if ref != "#" else ():
        key = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(node, Mapping) or key not in node:
            raise ValueError(f"{where}: $ref {ref[:80]!r} points nowhere")
        node = node[key]
    return node


def _infinite(value: Any, pointer: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, float) and not math.isfinite(value):
        yield pointer, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _infinite(item, f"{pointer}/{_escaped(key)}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _infinite(item, f"{pointer}/{index}")


def _pointer(path: Any) -> str:
    return "".join(f"/{_escaped(part)}" for part in path)


def _escaped(part: object) -> str:
    return str(part).replace("~", "~0").replace("/", "~1")


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 300 else f"{line[:297]}..."
