"""Tools as Python writes them: signatures as text, and functions with their hints and docstrings."""

from __future__ import annotations

import ast
import inspect
import re
import typing
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tenfold.tools.schemas import JSONSchema

_TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean", "list": "array", "dict": "object", "tuple": "array", "set": "array", "bytes": "string"}  # fmt: skip
_PYTHON = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "array": "list", "object": "dict"}
_DEPTH = 8  # of brackets in an annotation

LONGEST = 20_000  # characters of a signature; what is longer is none


class SignatureError(ValueError):
    """Text that is no signature; the message says why in one line."""


@dataclass(frozen=True)
class Signature:
    """A tool's name and parameters.

    Args:
        name: of the tool.
        parameters: JSON Schema of an object, closed to unknown arguments but for `**` in a text.
        returns: JSON Schema of the result; None where the signature does not say.
        mended: what had to be mended before Python could read it, in words; empty for a clean one.
    """

    name: str
    parameters: JSONSchema
    returns: JSONSchema | None = None
    mended: str = ""


def parse_signature(text: str, *, mend: bool = False) -> Signature:
    """Read `name(a: str, n: int = 3) -> dict`.

    Args:
        text: one signature, as ToolDEER's `api_function` has it.
        mend: also read what Python does not: `...`, and parameters without a default behind one with it.
    Raises:
        SignatureError: Python cannot read it and `mend` is off or does not help.
    """
    if len(text) > LONGEST:
        raise SignatureError(f"signature {_short(text)}: got {len(text)} characters, need at most {LONGEST}")
    try:
        return _read(text, "")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        if not mend:
            raise SignatureError(f"signature {_short(text)}: {_line(error)}") from None
    mended, what = _mended(text)
    try:
        return _read(mended, what)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise SignatureError(f"signature {_short(text)}: {_line(error)}") from None


def write_signature(name: str, parameters: Mapping[str, Any], returns: Mapping[str, Any] | None = None) -> str:
    """The signature of a schema; parameters without a default come first, optional ones without a default get None."""
    required = set(parameters.get("required") or ())
    properties = parameters.get("properties") or {}
    order = [key for key in properties if key in required and "default" not in properties[key]]
    order += [key for key in properties if key not in order]
    parts = []
    for key in order:
        schema = properties[key]
        part = f"{key}: {_annotation(schema)}"
        if "default" in schema:
            part += f" = {schema['default']!r}"
        elif key not in required:
            part += " = None"
        parts.append(part)
    arrow = f" -> {_annotation(returns)}" if returns else ""
    return f"{name}({', '.join(parts)}){arrow}"


def of_function(function: Callable[..., Any]) -> tuple[Signature, str, dict[str, str]]:
    """A function's signature from its type hints, its description and its arguments' from its docstring.

    Raises:
        SignatureError: * or ** parameters, or a hint that has no JSON Schema.
    """
    from pydantic import PydanticUserError, TypeAdapter
    from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError

    hints = typing.get_type_hints(function)
    about, described = _docstring(inspect.getdoc(function) or "")
    properties: dict[str, Any] = {}
    definitions: dict[str, Any] = {}
    required = []

    def schema_of(hint: Any) -> JSONSchema:
        try:
            schema = TypeAdapter(hint).json_schema(ref_template="#/$defs/{model}")
        except (PydanticUserError, PydanticSchemaGenerationError, PydanticInvalidForJsonSchema) as error:
            raise SignatureError(f"{function.__name__}: {_line(error)}") from None
        definitions.update(schema.pop("$defs", {}))
        return schema

    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise SignatureError(f"{function.__name__}: parameter {name} cannot be given by name")
        schema = schema_of(hints[name]) if name in hints else {}
        if name in described:
            schema["description"] = described[name]
        if parameter.default is parameter.empty:
            required.append(name)
        else:
            schema["default"] = parameter.default
        properties[name] = schema
    parameters: JSONSchema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}  # fmt: skip
    if definitions:
        parameters["$defs"] = definitions
    result = hints.get("return")
    returns = None if result in (None, type(None), Any) else schema_of(result)
    return Signature(function.__name__, parameters, returns), about, described


def _read(text: str, mended: str) -> Signature:
    tree = ast.parse(f"def {text.strip()}: pass").body
    if len(tree) != 1 or not isinstance(tree[0], ast.FunctionDef) or not isinstance(tree[0].body[0], ast.Pass):
        raise ValueError("need one name(parameter: type = default)")
    function = tree[0]
    named = function.args
    if named.vararg:
        raise ValueError("* is no parameter")
    parameters = [*named.posonlyargs, *named.args, *named.kwonlyargs]
    defaults: list[ast.expr | None] = [None] * (len(named.posonlyargs) + len(named.args) - len(named.defaults))
    defaults += [*named.defaults, *named.kw_defaults]
    properties: dict[str, Any] = {}
    for parameter, default in zip(parameters, defaults, strict=True):
        schema = _schema(parameter.annotation)
        if default is not None:
            with suppress(ValueError):  # a default that is no literal makes it optional and says no more
                schema["default"] = ast.literal_eval(default)
        properties[parameter.arg] = schema
    required = [each.arg for each, default in zip(parameters, defaults, strict=True) if default is None]
    closed: JSONSchema = {"type": "object", "properties": properties, "required": required, "additionalProperties": named.kwarg is not None}  # fmt: skip
    returns = _schema(function.returns) if function.returns is not None else None
    return Signature(function.name, closed, returns or None, mended)


def _mended(text: str) -> tuple[str, str]:
    """Without `...`, and with the parameters that have no default before those that have one."""
    head, _, rest = text.strip().partition("(")
    inside, close, arrow = rest.rpartition(")")
    if not close:
        return text, "closing bracket"
    parts = [part.strip() for part in _split(inside)]
    kept = [part for part in parts if part not in ("", "...")]
    kept = [re.sub(r"^(optional|required)\s+(?=\w)", "", part) for part in kept]
    what = [] if kept == parts else ["open parameter list"]
    ordered = [part for part in kept if "=" not in part] + [part for part in kept if "=" in part]
    if ordered != kept:
        what.append("order of the parameters")
    return f"{head}({', '.join(ordered)}){arrow}", ", ".join(what) or "syntax"


def _split(text: str) -> list[str]:
    """Cut at the commas outside brackets and quotes."""
    parts, level, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        level += (character in "([{") - (character in ")]}") if not quote else 0
        if character == "," and not level and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _schema(node: ast.expr | None, level: int = 0) -> JSONSchema:
    """The schema of an annotation, which is read and never evaluated; what is not known takes any value."""
    if node is None or level > _DEPTH:
        return {}
    if isinstance(node, ast.Constant):
        return {"type": "null"} if node.value is None else _named(str(node.value))
    if isinstance(node, ast.Name):
        return _named(node.id)
    if isinstance(node, ast.Attribute):
        return _named(node.attr)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _union([_schema(node.left, level + 1), _schema(node.right, level + 1)])
    if isinstance(node, ast.Subscript):
        return _generic(_last(node.value), node.slice, level + 1)
    return {}


def _generic(name: str, inside: ast.expr, level: int) -> JSONSchema:
    parts = inside.elts if isinstance(inside, ast.Tuple) else [inside]
    if name == "Literal":
        return {"enum": [ast.literal_eval(part) for part in parts]}
    schemas = [_schema(part, level) for part in parts]
    if name == "Optional":
        return _union([*schemas, {"type": "null"}])
    if name == "Union":
        return _union(schemas)
    if name.lower() in ("list", "sequence", "set", "iterable"):
        return {"type": "array", **({"items": schemas[0]} if schemas[0] else {})}
    return _named(name)


def _last(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _named(name: str) -> JSONSchema:
    kind = _TYPES.get(name.strip().lower())
    return {"type": kind} if kind else {}


def _union(schemas: list[JSONSchema]) -> JSONSchema:
    if {} in schemas:
        return {}
    plain = [schema["type"] for schema in schemas if set(schema) == {"type"} and isinstance(schema["type"], str)]
    return {"type": plain} if len(plain) == len(schemas) else {"anyOf": schemas}


def _annotation(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type")
    if "enum" in schema:
        return f"Literal[{', '.join(map(repr, schema['enum']))}]"
    if isinstance(kind, list):
        return " | ".join("None" if each == "null" else _PYTHON.get(each, "Any") for each in kind)
    if kind == "array" and isinstance(schema.get("items"), Mapping) and schema["items"]:
        return f"list[{_annotation(schema['items'])}]"
    if "anyOf" in schema:
        return " | ".join(dict.fromkeys(_annotation(each) for each in schema["anyOf"]))
    return "None" if kind == "null" else _PYTHON.get(str(kind), "Any")


def _docstring(text: str) -> tuple[str, dict[str, str]]:
    """The part before `Args:`, and what `Args:` says of each argument."""
    about, _, rest = text.partition("\nArgs:\n")
    described: dict[str, str] = {}
    name = ""
    for line in rest.split("\n"):
        if line and not line.startswith(" "):
            break
        if found := re.match(r" {2,4}(\w+)(?: \([^)]*\))?: (.*)", line):
            name = found[1]
            described[name] = found[2].strip()
        elif name and line.strip():
            described[name] += f" {line.strip()}"
    return about.partition("\nReturns:\n")[0].strip(), described


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
