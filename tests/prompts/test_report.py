"""The page: whole, self-contained, and safe whatever a model writes."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tenfold.core.errors import UserError
from tenfold.prompts.optimizer import PromptOptimizer
from tenfold.prompts.report import val_against_test
from tenfold.prompts.resampling import APE
from tenfold.prompts.result import Result
from tenfold.prompts.task import Task
from tenfold.text.chat import ScriptedChatModel, complete_all

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


def test_the_page_shows_what_the_target_got_wrong_and_never_test(task: Task, tmp_path: Path) -> None:
    inner = adder(lambda prompt, i: i % 2 == 0)

    def reply(messages: Any, sampling: Any, index: int) -> str:
        ((said,),) = complete_all(inner, [messages])
        return f"<b>{'pad ' * 300}</b> {said.text}"

    result = PromptOptimizer(
        ScriptedChatModel(reply, "padder"), ScriptedChatModel([]), rounds=0, run_dir=tmp_path
    ).optimize(task, ["add"])
    assert len(result.missed) == 5 and {row["split"] for row in result.missed} <= {"val", "train"}
    known = {e.id: e for e in (*task.val, *task.train)}
    for row in result.missed:
        example = known[row["id"]]
        assert (row["input"], row["target"]) == (example.input, example.target) and row["read"] == str(
            int(example.target) + 1
        )
        assert (
            len(row["reply"]) <= 400 and row["reply"].startswith("<b>pad") and row["reply"].endswith(row["read"] + ".")
        )
    html = (tmp_path / "report.html").read_text()
    assert "What the target got wrong" in html and "&lt;b&gt;pad" in html and "<b>pad" not in html
    assert not any(example.input in html for example in task.test)
    assert Result.open(tmp_path).missed == result.missed and not result.warnings()


def test_replies_that_cannot_be_read_head_the_page(task: Task, tmp_path: Path) -> None:
    mute = ScriptedChatModel(lambda *_: "who knows", "mute")
    result = PromptOptimizer(mute, ScriptedChatModel([]), rounds=0, run_dir=tmp_path).optimize(task, ["add"])
    (line,) = result.warnings()
    assert line.startswith("No answer could be read in 40 of 40 replies")
    assert line in (tmp_path / "report.html").read_text() and result.missed[0]["read"] is None
    old = {name: value for name, value in result.to_json().items() if name != "missed"}
    assert Result.from_json(old).missed == ()


def test_val_against_test_is_said_in_the_right_direction() -> None:
    assert val_against_test(0.1) == "Val says 0.100 more than test for the chosen prompt (the winner's curse)"
    assert "0.100 less than test" in str(val_against_test(-0.1)) and "curse" not in str(val_against_test(-0.1))
    assert val_against_test(None) is None and val_against_test(0.0) == "Val and test agree for the chosen prompt"
