"""The registry: everyone's formats in and out, names, validation."""

from __future__ import annotations

import copy
from typing import Any, Literal

import pytest

from tenfold.core.errors import UserError
from tenfold.tools.calls import Call
from tenfold.tools.schemas import coerce, depth, from_bfcl, normalise, to_bfcl
from tenfold.tools.tool import SIDE_EFFECT, Tool, ToolRegistry, UnknownToolError

OPENAI = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a place.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"type": ["string", "null"], "enum": ["c", "f", None]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}
MCP = {
    "name": "convert",
    "title": "Convert",
    "description": "Units.",
    "inputSchema": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]},
    "outputSchema": {"type": "object", "properties": {"y": {"type": "number"}}},
    "annotations": {"readOnlyHint": True},
}


def weather(city: str, days: int = 3, unit: Literal["c", "f"] = "c", tags: list[str] | None = None) -> dict[str, float]:
    """Weather of a place.

    Args:
        city: its name,
            in English.
        days: ahead.

    Returns:
        degrees.
    """
    return {city: float(days)}


def test_a_function_becomes_a_tool_by_its_hints_and_docstring() -> None:
    registry = ToolRegistry.from_functions([weather])
    tool = registry.get("weather")
    properties = tool.parameters["properties"]
    assert tool.description == "Weather of a place."
    assert properties["city"] == {"type": "string", "description": "its name, in English."}
    assert properties["days"] == {"type": "integer", "description": "ahead.", "default": 3}
    assert properties["unit"]["enum"] == ["c", "f"]
    assert tool.parameters["required"] == ["city"] and tool.fn is weather
    assert registry.to_signature() == [
        "weather(city: str, days: int = 3, unit: Literal['c', 'f'] = 'c', tags: list[str] | None = None) -> dict"
    ]


@pytest.mark.parametrize(
    ("arguments", "codes"),
    [
        ({"city": "Paris"}, []),
        ({"city": "Paris", "days": 3.0}, []),
        ({"city": "Paris", "days": True}, ["type"]),
        ({"city": "Paris", "days": "3"}, ["type"]),
        ({"city": "Paris", "days": 3.5}, ["type"]),
        ({"days": 3}, ["missing_arg"]),
        ({"city": "Paris", "town": "x"}, ["unknown_arg"]),
        ({"city": "Paris", "unit": "k"}, ["enum"]),
        (["Paris"], ["type"]),
        (None, ["type"]),
    ],
)
def test_what_is_wrong_with_a_call(arguments: Any, codes: list[str]) -> None:
    registry = ToolRegistry.from_functions([weather])
    assert [issue.code for issue in registry.validate({"name": "weather", "arguments": arguments})] == codes


def test_numbers_that_json_lacks_are_issues_with_their_place() -> None:
    schema = {"type": "object", "properties": {"a/b": {"type": "array", "items": {"type": "number"}}}}
    tool = Tool(name="f", parameters=schema)
    (issue,) = tool.issues({"a/b": [1, float("nan")]})
    assert (issue.code, issue.pointer) == ("number", "/a~1b/1")


def test_a_name_of_another_case_is_named_and_not_run() -> None:
    registry = ToolRegistry.from_functions([weather])
    (issue,) = registry.validate(Call("Weather", {}))
    assert issue.code == "name" and "near: weather" in issue.message
    with pytest.raises(UnknownToolError, match="near: weather"):
        registry.get("wether")


def test_openai_and_mcp_round_trips() -> None:
    loose = copy.deepcopy(OPENAI)
    del loose["function"]["strict"]  # type: ignore[attr-defined]
    assert ToolRegistry.from_openai([OPENAI]).to_openai() == [OPENAI]
    assert ToolRegistry.from_openai([loose]).to_openai(strict=False) == [loose]
    assert ToolRegistry.from_mcp({"tools": [MCP]}).to_mcp() == {"tools": [MCP]}
    bare = {"name": "f", "inputSchema": {"type": "object"}}
    assert ToolRegistry.from_mcp([bare]).to_mcp() == {"tools": [bare]}
    anthropic = {"name": "f", "description": "d", "input_schema": {"type": "object", "properties": {}}}
    assert ToolRegistry.from_anthropic([anthropic]).to_anthropic() == [anthropic]


def test_strict_mode_closes_objects_and_lets_optional_properties_be_null() -> None:
    registry = ToolRegistry.from_functions([weather])
    (tool,) = registry.to_openai()
    parameters = tool["function"]["parameters"]
    assert parameters["required"] == ["city", "days", "unit", "tags"]
    assert parameters["properties"]["days"]["type"] == ["integer", "null"]
    assert parameters["properties"]["unit"]["enum"] == ["c", "f", None]
    assert ToolRegistry.from_openai([tool]).to_openai() == [tool]


def test_tools_of_mcp_change_things_unless_they_say_otherwise() -> None:
    silent = {key: value for key, value in MCP.items() if key != "annotations"}
    assert not ToolRegistry.from_mcp([MCP]).get("convert").side_effects
    assert ToolRegistry.from_mcp([silent]).get("convert").tags == (SIDE_EFFECT,)


def test_names_that_apis_refuse_get_reversible_aliases() -> None:
    long = "x" * 70
    registry = ToolRegistry(Tool(name=name) for name in ("geo.find", "wetter in köln", long))
    aliases = [registry.alias(name) for name in registry.names]
    assert aliases[0] == "geo_find" and all(len(alias) <= 64 and alias.isascii() for alias in aliases)
    assert [registry.original(alias) for alias in aliases] == registry.names
    with pytest.raises(ValueError, match=r"becomes 'geo_find', which 'geo\.find' has already"):
        registry.add(Tool(name="geo_find"))
    with pytest.raises(ValueError, match="got two of this name"):
        registry.add(Tool(name="geo.find"))


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "strng"}, "is not valid under any"),
        ({"type": "array"}, "need object"),
        ({"properties": {"a": {"$ref": "https://example.org/x"}}}, "is remote"),
        ({"properties": {"a": {"$ref": "#/$defs/b"}}}, "points nowhere"),
    ],
)
def test_schemas_that_are_refused(schema: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tool(name="f", parameters=schema)
    with pytest.raises(UserError, match=message) as refused:
        ToolRegistry.from_openai([{"name": "f", "parameters": schema}])
    assert "\n" not in str(refused.value)


def test_a_schema_that_refers_to_itself_is_followed() -> None:
    tree = {"type": "object", "properties": {"left": {"$ref": "#"}, "n": {"type": "integer"}}}
    tool = Tool(name="f", parameters=tree)
    assert not tool.issues({"left": {"left": {"n": 1}}})
    assert [issue.pointer for issue in tool.issues({"left": {"left": {"n": "1"}}})] == ["/left/left/n"]


def test_types_of_bfcl_there_and_back() -> None:
    theirs = {
        "type": "dict",
        "properties": {
            "a": {"type": "float"},
            "b": {"type": "tuple", "items": {"type": "any"}},
            "c": {"type": "array", "items": {"type": "dict", "properties": {"d": {"type": "integer"}}}},
        },
        "required": ["a"],
    }
    schema = from_bfcl(theirs)
    assert schema["properties"]["a"] == {"type": "number"} and schema["properties"]["b"]["items"] == {}
    assert to_bfcl(schema) == theirs


def test_whole_numbers_and_lossless_conversions() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}, "b": {"type": "boolean"}, "x": {"type": "number"}, "s": {"type": "string"}}}  # fmt: skip
    assert normalise(schema, {"n": 3.0, "x": 2.0}) == {"n": 3, "x": 2.0}
    assert isinstance(normalise(schema, {"n": 3.0})["n"], int)
    assert coerce(schema, {"n": "3", "b": "true", "x": "2.5", "s": 7}) == {"n": 3, "b": True, "x": 2.5, "s": "7"}
    lossy = {"n": "3.5", "b": "yes", "x": "1e400", "s": True}
    assert coerce(schema, lossy) == lossy
    assert [depth(value) for value in (1, [], [[1]], {"a": [1]})] == [0, 1, 2, 2]
