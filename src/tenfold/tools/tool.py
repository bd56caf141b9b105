"""The nouns of tool use: a tool, and a registry of tools that reads and writes everyone's formats."""

from __future__ import annotations

import copy
import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from tenfold.core.errors import UserError
from tenfold.tools.calls import Call
from tenfold.tools.schemas import Issue, JSONSchema, check_schema, from_bfcl, issues
from tenfold.tools.signatures import of_function, parse_signature, write_signature

SIDE_EFFECT = "side-effect"  # the tag of tools that change something outside
UNMARKED = "unmarked"  # the tag of Python functions of a user's file that do not say whether they change something
_LEGAL = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_TURNING = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
_EMPTY: JSONSchema = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}


class Tool(BaseModel):
    """Something that a model may call.

    Args:
        name: of it, unique in its registry.
        description: for the model.
        parameters: JSON Schema of the arguments, an object.
        returns: JSON Schema of the result; None where nobody says.
        fn: what runs it, plain or async; None for a tool that is only described.
        source: where it comes from: function, signature, openai, mcp, openapi, bfcl, ...
        tags: such as "side-effect".
        extra: fields of the source's format that have no place here, kept for the way back.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=512)
    description: str = ""
    parameters: JSONSchema = Field(default_factory=lambda: copy.deepcopy(_EMPTY))
    returns: JSONSchema | None = None
    fn: Callable[..., Any] | None = Field(default=None, exclude=True, repr=False)
    source: str = "tool"
    tags: tuple[str, ...] = ()
    extra: dict[str, Any] = Field(default_factory=dict, repr=False)

    @field_validator("parameters")
    @classmethod
    def _checked(cls, schema: JSONSchema) -> JSONSchema:
        check_schema(schema)
        if schema.get("type", "object") != "object":
            raise ValueError(f"parameters: got type {schema['type']!r}, need object")
        return schema

    @property
    def signature(self) -> str:
        """As Python writes it; of ToolDEER's tools as they came."""
        return str(self.extra.get("api_function") or write_signature(self.name, self.parameters, self.returns))

    @property
    def side_effects(self) -> bool:
        """Whether a call may change something outside."""
        return SIDE_EFFECT in self.tags

    def issues(self, arguments: Any) -> list[Issue]:
        """What is wrong with the arguments of a call."""
        if not isinstance(arguments, Mapping):
            return [Issue("type", "", f"arguments must be an object, got {type(arguments).__name__}")]
        return issues(self.parameters, dict(arguments))


class ToolRegistry:
    """Tools by name, in order.

    Raises:
        ValueError: two tools of one name, or of names that become one where only letters, digits, _ and - are allowed; a name
            with control characters.
    """

    def __init__(self, tools: Iterable[Tool] = ()) -> None:
        self._tools: dict[str, Tool] = {}
        self._aliases: dict[str, str] = {}  # alias -> name
        for tool in tools:
            self.add(tool)

    def __len__(self) -> int:
        return len(self._tools)

    def __iter__(self) -> Iterator[Tool]:
        return iter(self._tools.values())

    def __contains__(self, name: object) -> bool:
        return name in self._tools

    def add(self, tool: Tool) -> Tool:
        """Add a tool at the end."""
        check_name(tool.name)
        if tool.name in self._tools:
            raise ValueError(f"tool {tool.name!r}: got two of this name, need one")
        alias = alias_of(tool.name)
        if alias in self._aliases:
            raise ValueError(
                f"tool {tool.name!r}: its name becomes {alias!r}, which {self._aliases[alias]!r} has already"
            )
        self._tools[tool.name], self._aliases[alias] = tool, tool.name
        return tool

    def get(self, name: str) -> Tool:
        """The tool of that name, to the letter.

        Raises:
            UnknownToolError: none; names up to three near ones.
        """
        if name not in self._tools:
            raise UnknownToolError(name, self.names)
        return self._tools[name]

    @property
    def names(self) -> list[str]:
        """All names, in order."""
        return list(self._tools)

    def subset(self, names: Iterable[str]) -> ToolRegistry:
        """Some of the tools, in the order of `names`."""
        return ToolRegistry(self.get(name) for name in names)

    def alias(self, name: str) -> str:
        """The tool's name as APIs allow it: letters, digits, _ and -, at most 64."""
        return alias_of(self.get(name).name)

    def original(self, alias: str) -> str:
        """The name behind an alias; a name that is no alias stays as it is."""
        return self._aliases.get(alias, alias)

    def validate(self, call: Call | Mapping[str, Any]) -> list[Issue]:
        """What is wrong with a call, nothing of which is carried out.

        Args:
            call: anything with a name and arguments, or a mapping of these two.
        Returns:
            an empty list for a right call.
        """
        name, arguments = (call.get("name"), call.get("arguments")) if isinstance(call, Mapping) else (call.name, call.arguments)  # fmt: skip
        if name not in self._tools:
            return [Issue("name", "", str(UnknownToolError(str(name), self.names)))]
        return self._tools[str(name)].issues(arguments)

    # Readers.

    @classmethod
    def from_functions(cls, functions: Iterable[Callable[..., Any]], *, tags: Sequence[str] = ()) -> ToolRegistry:
        """Python functions: schema from their type hints, texts from their docstrings (`Args:`).

        A function with the attribute `side_effects = True` is tagged as one that changes something.

        Args:
            functions: plain or async.
            tags: of all of them.
        """
        tools = []
        for function in functions:
            signature, about, _ = of_function(function)
            marks = (SIDE_EFFECT,) if getattr(function, "side_effects", False) is True and SIDE_EFFECT not in tags else ()  # fmt: skip
            tools.append(Tool(name=signature.name, description=about, parameters=signature.parameters, returns=signature.returns, fn=function, source="function", tags=(*tags, *marks)))  # fmt: skip
        return cls(tools)

    @classmethod
    def from_signature(cls, signature: str, description: str = "") -> ToolRegistry:
        """One tool from `f(a: str, n: int = 3)`."""
        read = parse_signature(signature)
        return cls([Tool(name=read.name, description=description, parameters=read.parameters, returns=read.returns, source="signature")])  # fmt: skip

    @classmethod
    def from_openai(cls, tools: Iterable[Mapping[str, Any]]) -> ToolRegistry:
        """OpenAI's `tools`, or bare functions of them."""
        return cls(_from_openai(tool, f"tools[{index}]") for index, tool in enumerate(tools))

    @classmethod
    def from_anthropic(cls, tools: Iterable[Mapping[str, Any]]) -> ToolRegistry:
        """Anthropic's `tools`."""
        return cls(_described(tool, "input_schema", "anthropic", f"tools[{index}]") for index, tool in enumerate(tools))

    @classmethod
    def from_bfcl(cls, functions: Iterable[Mapping[str, Any]]) -> ToolRegistry:
        """Functions of the Berkeley leaderboard, whose types have names of their own; closed to unknown arguments."""
        return cls(
            Tool(
                name=function["name"],
                description=function.get("description", ""),
                parameters={**from_bfcl(function["parameters"]), "additionalProperties": False},
                source="bfcl",
            )
            for function in functions
        )

    @classmethod
    def from_mcp(cls, listed: Any) -> ToolRegistry:
        """A result of MCP's `tools/list`, its list of tools, or an open `tools.mcp_client.McpSession`.

        Tools that do not say `readOnlyHint` count as having side effects, as MCP has it.
        """
        call = getattr(listed, "call_tool", None) if hasattr(listed, "tools_listed") else None
        listed = listed.tools_listed if call is not None else listed
        listed = listed.model_dump(by_alias=True, exclude_none=True, mode="json") if hasattr(listed, "model_dump") else listed  # fmt: skip
        rows = listed.get("tools") if isinstance(listed, Mapping) else listed
        if not isinstance(rows, list):
            raise UserError(f"mcp: got {type(rows).__name__}, need a tools/list result with its list of tools")
        return cls(_from_mcp(row, call, f"tools[{index}]") for index, row in enumerate(rows))

    @classmethod
    def from_openapi(cls, document: Any, *, base_url: str | None = None, **options: Any) -> ToolRegistry:
        """The operations of an OpenAPI 3 document; see `tools.openapi.openapi_tools`."""
        from tenfold.tools.openapi import openapi_tools

        return cls(openapi_tools(document, base_url=base_url, **options))

    # Writers.

    def to_openai(self, strict: bool = True) -> list[dict[str, Any]]:
        """OpenAI's `tools`.

        Args:
            strict: as OpenAI's strict mode wants schemas: closed, all properties required, optional ones may be null.
        """
        return [_to_openai(tool, strict) for tool in self]

    def to_anthropic(self) -> list[dict[str, Any]]:
        """Anthropic's `tools`."""
        return [{"name": alias_of(tool.name), "description": tool.description, "input_schema": copy.deepcopy(tool.parameters)} for tool in self]  # fmt: skip

    def to_mcp(self) -> dict[str, Any]:
        """A result of MCP's `tools/list`."""
        return {"tools": [_to_mcp(tool) for tool in self]}

    def to_signature(self) -> list[str]:
        """Signatures as Python writes them."""
        return [tool.signature for tool in self]


class UnknownToolError(UserError):
    """A tool that is not there, with near names; nothing is run in its place."""

    def __init__(self, name: str, names: Sequence[str]) -> None:
        folded = {each.casefold(): each for each in names}
        near = [folded[each] for each in get_close_matches(name.casefold(), folded, n=3)]
        hint = f" (near: {', '.join(near)})" if near else ""
        super().__init__(f"tool {name[:64]!r}: not among the {len(names)} offered{hint}")
        self.name, self.near = name, near


def check_name(name: str) -> None:
    """UserError where a name holds what steers a terminal, breaks lines or turns the direction of writing."""
    for character in name:
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(character) in _TURNING:  # fmt: skip
            raise UserError(
                f"tool {name[:64]!r}: got the control character U+{ord(character):04X} in its name; rename it"
            )


def alias_of(name: str) -> str:
    """A name as APIs allow it; a shortened one ends with part of its hash."""
    legal = re.sub(r"[^a-zA-Z0-9_-]", "_", name)
    if not _LEGAL.fullmatch(legal):
        legal = f"{legal[:55]}_{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"
    return legal


def _described(row: Any, schema: str, source: str, where: str, **more: Any) -> Tool:
    if not isinstance(row, Mapping) or not isinstance(row.get("name"), str):
        raise UserError(f"{where}: need an object with a name")
    try:
        parameters = row.get(schema)
        known: dict[str, Any] = {} if parameters is None else {"parameters": copy.deepcopy(dict(parameters))}
        return Tool(name=row["name"], description=row.get("description") or "", source=source, **known, **more)
    except (ValueError, TypeError) as error:
        first = error.errors()[0]["msg"] if hasattr(error, "errors") else str(error)
        raise UserError(f"{where}: {row['name'][:64]}: {' '.join(str(first).split())}") from None


def _from_openai(tool: Any, where: str) -> Tool:
    function = tool.get("function", tool) if isinstance(tool, Mapping) else tool
    kept = {key: value for key, value in function.items() if key not in ("name", "description", "parameters")} if isinstance(function, Mapping) else {}  # fmt: skip
    lacks = [key for key in ("description", "parameters") if isinstance(function, Mapping) and key not in function]
    return _described(function, "parameters", "openai", where, extra={"openai": kept, "openai_lacks": lacks})


def _to_openai(tool: Tool, strict: bool) -> dict[str, Any]:
    extra = tool.extra.get("openai", {})
    function: dict[str, Any] = {"name": alias_of(tool.name), "description": tool.description}
    function["parameters"] = copy.deepcopy(tool.parameters)
    for key in tool.extra.get("openai_lacks", ()):
        if not strict or key == "description":
            del function[key]
    function |= copy.deepcopy(extra)
    if strict:
        function |= {"parameters": _strict(tool.parameters), "strict": True}
    return {"type": "function", "function": function}


def _strict(node: Any) -> Any:
    """OpenAI's strict mode: closed objects whose optional properties may be null instead of absent."""
    if isinstance(node, list):
        return [_strict(each) for each in node]
    if not isinstance(node, Mapping):
        return copy.deepcopy(node)
    schema = {key: _strict(value) if key != "properties" else value for key, value in node.items() if key != "default"}
    if node.get("type") == "object" or "properties" in node:
        properties = node.get("properties") or {}
        needed = set(node.get("required") or ())
        schema["properties"] = {name: _strict(part) if name in needed else _nullable(_strict(part)) for name, part in properties.items()}  # fmt: skip
        schema |= {"required": list(properties), "additionalProperties": False}
    return schema


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    kind = schema.get("type")
    if isinstance(kind, str | list):
        kinds = [kind] if isinstance(kind, str) else kind
        schema = {**schema, "type": kinds if "null" in kinds else [*kinds, "null"]}
        if "enum" in schema and None not in schema["enum"]:
            schema["enum"] = [*schema["enum"], None]
        return schema
    return {"anyOf": [schema, {"type": "null"}]} if schema else schema


def _from_mcp(row: Any, call: Callable[..., Any] | None, where: str) -> Tool:
    kept = {key: value for key, value in row.items() if key not in ("name", "description", "inputSchema", "outputSchema")} if isinstance(row, Mapping) else {}  # fmt: skip
    hints = kept.get("annotations") or {}
    tags = () if isinstance(hints, Mapping) and hints.get("readOnlyHint") is True else (SIDE_EFFECT,)
    more: dict[str, Any] = {"extra": {"mcp": copy.deepcopy(kept)}, "tags": tags}
    if isinstance(row, Mapping):
        more["extra"]["mcp_lacks"] = [key for key in ("description", "inputSchema") if key not in row]
        more["returns"] = copy.deepcopy(row.get("outputSchema"))
        if call is not None:
            more["fn"] = _McpCall(call, str(row.get("name")))
    return _described(row, "inputSchema", "mcp", where, **more)


class _McpCall:
    """A tool at the other end of an open session."""

    def __init__(self, call: Callable[..., Any], name: str) -> None:
        self._call, self._name = call, name

    async def __call__(self, **arguments: Any) -> Any:
        return await self._call(self._name, arguments)


def _to_mcp(tool: Tool) -> dict[str, Any]:
    row: dict[str, Any] = {"name": tool.name, "description": tool.description}
    row["inputSchema"] = copy.deepcopy(tool.parameters)
    for key in tool.extra.get("mcp_lacks", ()):
        del row[key]
    if tool.returns is not None:
        row["outputSchema"] = copy.deepcopy(tool.returns)
    return row | copy.deepcopy(tool.extra.get("mcp", {}))
