"""Scripted models, and many conversations answered from plain code."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

import pytest

from tenfold.text import chat
from tenfold.text.chat import SAMPLING, Message, Reply, Sampling, ScriptedChatModel, Usage, complete_all

WORDS = [[Message("user", f"word {i}")] for i in range(40)]


class Slow:
    """Answers its question after a while that has nothing to do with the order of the questions."""

    name = "slow"

    def __init__(self) -> None:
        self.cancelled = 0

    async def complete(self, messages: Sequence[Message], sampling: Sampling = SAMPLING, n: int = 1) -> list[Reply]:
        content = messages[-1].content
        if content == "fail":
            raise RuntimeError("failed")
        try:
            await asyncio.sleep(60 if content == "never" else hash((content, 5)) % 7 / 1000)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return [Reply(f"{content}/{sampling.seed}/{i}", "stop", Usage(1, 1)) for i in range(n)]


def test_every_name_is_there() -> None:
    names = "Message Sampling Usage Reply ToolCall ChatModel EndpointChatModel ScriptedChatModel ReplayChatModel CachedChatModel Budget complete_all Retry"
    assert all(hasattr(chat, name) and name in chat.__all__ for name in names.split())
    assert "openai" not in chat.__dict__


def test_importing_does_not_load_the_client() -> None:
    code = "import sys, tenfold.text.chat; print(sorted({'openai', 'httpx2', 'httpx', 'pydantic'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_a_script_of_replies() -> None:
    model = ScriptedChatModel(["one", Reply("two", "length", Usage(3, 4))])
    assert asyncio.run(model.complete(WORDS[0])) == [Reply("one", "stop", Usage(2, 1, estimated=True))]
    assert asyncio.run(model.complete(WORDS[0])) == [Reply("two", "length", Usage(3, 4))]
    with pytest.raises(ValueError, match="replies: got 2, need one more for request 3"):
        asyncio.run(model.complete(WORDS[0]))


def test_a_function_as_script() -> None:
    model = ScriptedChatModel(lambda messages, sampling, i: f"{messages[-1].content} {sampling.seed} {i}", name="echo")
    assert model.name == "echo"
    replies = asyncio.run(model.complete(WORDS[0], Sampling(seed=3), n=2))
    assert [reply.text for reply in replies] == ["word 0 3 0", "word 0 3 1"]
    assert [reply.usage.prompt for reply in replies] == [2, 0]  # the prompt counts once


def expected(n: int = 1, seeds: Sequence[int | None] | None = None) -> list[list[str]]:
    seeds = seeds or [None] * len(WORDS)
    return [[f"{row[0].content}/{seed}/{i}" for i in range(n)] for row, seed in zip(WORDS, seeds, strict=True)]


def texts(replies: list[list[Reply]]) -> list[list[str]]:
    return [[reply.text for reply in row] for row in replies]


def test_replies_come_in_the_order_of_the_conversations() -> None:
    assert texts(complete_all(Slow(), WORDS, n=3)) == expected(3)
    seeds = list(range(40))
    assert texts(complete_all(Slow(), WORDS, [Sampling(seed=seed) for seed in seeds])) == expected(1, seeds)
    assert complete_all(Slow(), []) == []
    with pytest.raises(ValueError, match="sampling: got 2 for 40 conversations"):
        complete_all(Slow(), WORDS, [SAMPLING] * 2)


def test_also_inside_a_running_event_loop() -> None:
    async def notebook() -> list[list[Reply]]:
        return complete_all(Slow(), WORDS)

    assert texts(asyncio.run(notebook())) == expected()


def test_also_from_a_model_that_is_itself_being_asked() -> None:
    def judge(messages: Sequence[Message], sampling: Sampling, index: int) -> str:
        return complete_all(Slow(), [messages])[0][0].text

    assert texts(complete_all(ScriptedChatModel(judge), WORDS[:3])) == expected()[:3]


def test_also_from_many_threads() -> None:
    results: list[list[list[str]]] = []
    threads = [threading.Thread(target=lambda: results.append(texts(complete_all(Slow(), WORDS)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert results == [expected()] * 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_also_in_a_forked_process() -> None:
    code = """
import os
from tenfold.text.chat import Message, ScriptedChatModel, complete_all
ask = lambda: complete_all(ScriptedChatModel(lambda m, s, i: "hi"), [[Message("user", "x")]])[0][0].text
assert ask() == "hi"
if os.fork() == 0:
    assert ask() == "hi"
    os._exit(7)
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert out.stdout.strip() == "7", out.stderr


def test_the_first_failure_is_raised_and_cancels_the_rest() -> None:
    model = Slow()
    rows = [[Message("user", word)] for word in ("never", "fail", "never")]
    with pytest.raises(RuntimeError, match="failed"):
        complete_all(model, rows)
    assert model.cancelled == 1 or model.cancelled == 2  # the last may not have begun


def test_control_c_cancels_what_is_under_way() -> None:
    model = Slow()
    here = threading.get_ident()
    threading.Timer(0.2, lambda: signal.pthread_kill(here, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        complete_all(model, [[Message("user", "never")]])
    deadline = time.monotonic() + 5
    while not model.cancelled and time.monotonic() < deadline:
        time.sleep(0.01)
    assert model.cancelled == 1
