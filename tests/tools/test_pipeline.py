"""The pipeline: checks and drop codes, replies that are broken, kills between any two requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tenfold.core.errors import UserError
from tenfold.text.chat import Message, Sampling, ScriptedChatModel
from tenfold.tools.calls import Call
from tenfold.tools.pipeline import SamplePipeline, deterministic_fault, near, normal
from tenfold.tools.tool import Tool, ToolRegistry


def pair(query: str, call: str) -> str:
    return json.dumps({"query": query, "call": call})


def reply(signature: str, *pairs: str) -> str:
    return "\n".join(["Here you are:", "```json", json.dumps({"signature": signature}), *pairs, "```"])


REGISTRY = ToolRegistry(Tool(name=name, description=f"finds {name}") for name in ("cats", "dogs"))
WRITTEN = {
    "cats": reply(
        "cats(n: int, breed: str = '')",
        pair("Show me three cats please now", "cats(n=3)"),
        pair("show me THREE  cats please now", "cats(n=3)"),
        pair("Give me two of your best fluffy persian cats to look at today", "cats(n=2, breed='persian')"),
        pair("Give me two of your best fluffy persian cats to look at today!", "cats(n=2, breed='persian')"),
        pair("no literal", "cats(n=N)"),
        pair("quotes", "cats(n='it's')"),
        pair("other tool", "dogs(n=1)"),
        pair("unknown argument", "cats(n=1, colour='red')"),
        pair("missing argument", "cats()"),
        pair("wrong type", "cats(n='three')"),
        pair("say no", "cats(n=9)"),
        pair("never decides", "cats(n=8)"),
        pair("something that both do", "cats(n=1)"),
        '{"query": 3}',
        "{broken",
    ),
    "dogs": reply("dogs(n: int)", pair("something that  both DO", "dogs(n=1)"), pair("Five dogs", "dogs(n=5)")),
}


def script(messages: Sequence[Message], sampling: Sampling, index: int) -> str:
    text = messages[0].content
    if text.startswith("Write"):
        return WRITTEN["cats" if "Tool: cats" in text else "dogs"]
    return "Hm." if "never decides" in text else "No." if "say no" in text else " Yes, it does."


def test_every_reason_to_drop_a_pair(tmp_path: Path) -> None:
    pipeline = SamplePipeline(ScriptedChatModel(script), REGISTRY, cache_dir=tmp_path)
    cats, dogs = asyncio.run(pipeline.run())
    assert [query for query, _ in cats.examples] == ["Show me three cats please now", "Give me two of your best fluffy persian cats to look at today"]  # fmt: skip
    assert dogs.examples == (("Five dogs", "dogs(n=5)"),)
    assert cats.tool.parameters["required"] == ["n"]
    assert pipeline.report.dropped == {"parse": 4, "name": 1, "unknown_arg": 1, "missing_arg": 1, "type": 1, "llm_no": 1, "timeout": 1, "ambiguous": 2, "duplicate": 2}  # fmt: skip
    assert pipeline.report.kept == 3 and not pipeline.report.failed
    both = SamplePipeline(ScriptedChatModel(script), REGISTRY, cache_dir=tmp_path, keep_ambiguous=True)
    kept = asyncio.run(both.run())
    assert both.report.calls == 0 and sum(len(each.examples) for each in kept) == 5


class Killed(BaseException):
    pass


def test_killed_after_any_request_it_goes_on_without_asking_again(tmp_path: Path) -> None:
    asked: list[str] = []

    def count(messages: Sequence[Message], sampling: Sampling, index: int) -> str:
        asked.append(json.dumps([messages[0].content, sampling.seed]))
        return script(messages, sampling, index)

    whole = asyncio.run(SamplePipeline(ScriptedChatModel(count), REGISTRY, cache_dir=tmp_path / "whole").run())
    every = len(asked)
    assert len(set(asked)) == every
    asked.clear()
    for step in range(3, every, 4):

        def dying(messages: Sequence[Message], sampling: Sampling, index: int, limit: int = step) -> str:
            if len(asked) >= limit:
                raise Killed
            return count(messages, sampling, index)

        with pytest.raises(Killed):
            asyncio.run(SamplePipeline(ScriptedChatModel(dying), REGISTRY, cache_dir=tmp_path / "cut").run())
    again = asyncio.run(SamplePipeline(ScriptedChatModel(count), REGISTRY, cache_dir=tmp_path / "cut").run())
    assert again == whole and sorted(set(asked)) == sorted(asked) and len(asked) == every
    with (tmp_path / "cut" / "tools.jsonl").open("a") as file:
        file.write('{"key": "torn')
    assert asyncio.run(SamplePipeline(ScriptedChatModel(count), REGISTRY, cache_dir=tmp_path / "cut").run()) == whole


@pytest.mark.parametrize("said", ["", "I cannot.", "{}", reply("f(", pair("q", "f()")), '{"signature": "cats()"}'])
def test_replies_that_are_of_no_use(said: str, tmp_path: Path) -> None:
    pipeline = SamplePipeline(ScriptedChatModel(lambda *given: said), REGISTRY.subset(["cats"]), cache_dir=tmp_path)
    assert asyncio.run(pipeline.run()) == []
    assert pipeline.report.failed["cats"].startswith("parse: ") and pipeline.report.calls == 5


def test_a_model_that_is_down_fails_its_tool_alone(tmp_path: Path) -> None:
    def down(messages: Sequence[Message], sampling: Sampling, index: int) -> str:
        if "Tool: dogs" in messages[0].content:
            raise UserError("endpoint: no answer")
        return script(messages, sampling, index)

    pipeline = SamplePipeline(ScriptedChatModel(down), REGISTRY, cache_dir=tmp_path)
    (cats,) = asyncio.run(pipeline.run())
    assert cats.tool.name == "cats" and pipeline.report.failed == {"dogs": "timeout: endpoint: no answer"}


def test_rules() -> None:
    tool = ToolRegistry.from_signature("f(a: int)").get("f")
    for call, fault in ((Call("f", {"a": 1}), None), (Call("g", {"a": 1}), "name"), (Call("f", {}), "missing_arg"), (Call("f", {"a": 1, "b": 2}), "unknown_arg"), (Call("f", {"a": True}), "type")):  # fmt: skip
        assert deterministic_fault(tool, call) == fault
    assert normal(" Ｆｕｌｌ\twidth ") == "full width"
    assert near("one two three four five six seven eight nine ten eleven", "one two three four five six seven eight nine ten twelve")  # fmt: skip
    assert not near("one two three four", "one two three five") and not near("a b", "a c")


def test_a_checker_of_its_own_and_progress(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    never = ScriptedChatModel(lambda *given: "no", name="strict")
    pipeline = SamplePipeline(ScriptedChatModel(script), REGISTRY, never, tmp_path)
    assert asyncio.run(pipeline.run(lambda *given: told.append(given))) == [] and told == [(1, 2), (2, 2)]
    assert pipeline.report.dropped["llm_no"] == 9
    with pytest.raises(ValueError, match="pairs: got 0"):
        SamplePipeline(never, REGISTRY, cache_dir=tmp_path, pairs=0)
    _: Any = pipeline
