"""The page: whole, self-contained, and safe whatever a model writes."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tenfold.core.errors import UserError
from tenfold.prompts.resampling import APE
from tenfold.prompts.result import Result
from tenfold.prompts.task import Task
from tenfold.text.chat import ScriptedChatModel

from .conftest import adder

HOSTILE = (
    "</div><script>alert('x')</script><img src=x onerror=alert(1)> \u202edesrever\u202c {{ 7 * 7 }} {% raw %} é 🙂 \x07"
)


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_hostile_prompts_are_shown_and_not_run(task: Task, tmp_path: Path) -> None:
    writer = ScriptedChatModel(lambda *_: f"<prompt>{HOSTILE}</prompt>")
    result = APE(adder(lambda prompt, i: bool(prompt != "add" or i % 2)), writer, n_init=1, run_dir=tmp_path).optimize(
        task, ["add"]
    )
    assert result.best.text == HOSTILE.strip()
    html = (tmp_path / "report.html").read_text()
    page = Tags()
    page.feed(html)
    names = {tag for tag, _ in page.tags}
    assert "script" not in names and not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert all((attrs.get("src") or "data:").startswith("data:") for _, attrs in page.tags)
    assert (
        not re.search(r"(href|src)=.?https?:", html)
        and "\u202e" not in html
        and "\\u202e" in html
        and "\x07" not in html
    )
    assert "{{ 7 * 7 }}" in html and "&lt;script&gt;" in html and "<ins>" in html
    assert result.plot(tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert Result.open(tmp_path).to_json()["best_prompt"] == HOSTILE.strip()


def test_the_result_can_be_used(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    target = adder(lambda prompt, i: True)
    result = APE(target, ScriptedChatModel(lambda *_: "<prompt>sum</prompt>"), n_init=1).optimize(task, ["add"])
    assert result.as_callable(target, task)("What is 2 plus 300?") == "The answer is 302."
    for use, package in (
        (lambda: result.to_dspy("question -> answer"), "dspy"),
        (result.to_textgrad_variable, "textgrad"),
    ):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(UserError, match=f"{package} is not installed"):
            use()


def test_a_damaged_result_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"method": "ape"}')
    with pytest.raises(UserError, match="not the result of a prompt search"):
        Result.open(tmp_path)
