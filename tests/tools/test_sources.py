"""Where a user has tools; episodes as a page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tenfold.core.errors import UserError
from tenfold.tools.sources import of_json, open_tools
from tenfold.tools.tool import SIDE_EFFECT, UNMARKED
from tenfold.tools.trace import Answer, Call, Candidates, Decision, Error, ToolResult, Trace
from tenfold.tools.viewer import view

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
FORMS: list[Any] = [
    ["f(a: str)"],
    [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}],
    [{"name": "f", "parameters": SCHEMA}],
    [{"name": "f", "input_schema": SCHEMA}],
    {"tools": [{"name": "f", "inputSchema": SCHEMA}]},
    [{"api_name": "F", "description_for_human": "", "api_function": "f(a: str)", "example": []}],
    {"openapi": "3.1.0", "paths": {"/f": {"get": {"operationId": "f", "parameters": [{"name": "a", "in": "query", "schema": {"type": "string"}}]}}}},
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_usual_form(form: Any, tmp_path: Path) -> None:
    path = tmp_path / "tools.json"
    path.write_text(json.dumps(form))
    with open_tools(str(path)) as registry:
        assert registry.names == ["f"] and not registry.validate({"name": "f", "arguments": {"a": "x"}})
        assert registry.validate({"name": "f", "arguments": {"a": 1}})[0].pointer == "/a"


@pytest.mark.parametrize("data", [{}, [], [3], {"tools": "x"}, [{"title": "no name"}], ["f("]])
def test_what_has_no_tools(data: Any) -> None:
    with pytest.raises(ValueError, match=r"need|signature") as refused:
        of_json(data, "file")
    assert "\n" not in str(refused.value)


def test_a_catalogue_and_a_python_file(tmp_path: Path) -> None:
    catalogue = tmp_path / "c.jsonl"
    catalogue.write_text(json.dumps(FORMS[5][0]) + "\n")
    with open_tools(str(catalogue)) as registry:
        assert registry.names == ["f"]
    empty = tmp_path / "empty_tools.py"
    empty.write_text("def f(x):\n    return x\n")
    with pytest.raises(UserError, match="no public function with a docstring"), open_tools(str(empty)):
        pass


def test_python_functions_say_whether_they_change_something(tmp_path: Path) -> None:
    path = tmp_path / "marked_tools.py"
    texts = [f'def {name}() -> None:\n    """Do."""\n' for name in ("changes", "reads", "silent")]
    path.write_text("\n".join([*texts, "changes.side_effects = True", "reads.side_effects = False", ""]))
    with open_tools(str(path)) as registry:
        tags = {tool.name: tool.tags for tool in registry}
        assert tags == {"changes": (SIDE_EFFECT,), "reads": (), "silent": (UNMARKED,)}
        assert [tool.side_effects for tool in registry] == [True, False, False]


@pytest.mark.parametrize("name", ["a\x1b[31m", "a\nb", "a\x00", "a\u2028b", "a\u202eb"])
@pytest.mark.parametrize("form", FORMS[1:6], ids=str)
def test_names_with_control_characters_are_refused(form: Any, name: str) -> None:
    form = json.loads(json.dumps(form).replace('"name": "f"', f'"name": {json.dumps(name)}').replace('"F"', json.dumps(name)))  # fmt: skip
    with pytest.raises(UserError, match=r"control character U\+") as refused:
        of_json(form, "file")
    assert str(refused.value).isprintable()


def test_a_page_of_episodes(tmp_path: Path) -> None:
    good = Trace("<script>alert(1)</script>", "m", (Decision("search", "search", ("search", "answer"), {"search": -0.1}), Candidates(("f",), (1.5,)), Decision("call", "f", ("f", "none")), Call("c", "f", {"a": "<b>"}, True), ToolResult("c", "f", "<i>ok", seconds=0.5), Answer("done</script>")))  # fmt: skip
    bad = Trace("q", "m", (Decision("search", "answer", ("search", "answer")), Error("StepLimitError", "no", True)))
    html = view([good, bad, Trace("q2", "m", (Decision("search", "search", ("search", "answer")), Answer("x")))], tmp_path / "t.html").read_text()  # fmt: skip
    assert "<script>alert" not in html and "&lt;script&gt;alert(1)" in html and "done</script>" not in html
    for text in ("called a tool", "StepLimitError", "no tool fitted", "90 %", "call (mended)"):
        assert text in html
    assert ">3 episodes<" in html and "0 replies," in html
    assert ">1 episode<" in view(good, tmp_path / "one.html").read_text()
    assert "http" not in html.partition("<script>")[2]
    with pytest.raises(UserError, match="got none"):
        view([], tmp_path / "u.html")
