"""One request upstream however many ask; what was recorded can be replayed without the model."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from tenfold.core.errors import UserError
from tenfold.text.chat import (
    SAMPLING,
    Budget,
    CachedChatModel,
    Message,
    MissingReplyError,
    ReplayChatModel,
    Reply,
    Sampling,
    ScriptedChatModel,
    Usage,
    complete_all,
)

HELLO = [Message("user", "hello")]
WORDS = [[Message("user", f"word {i}")] for i in range(20)]


class Numbered:
    """Every reply is another number, so that a second call shows."""

    def __init__(self, name: str = "numbered", seconds: float = 0.01, failures: int = 0) -> None:
        self.name, self.seconds, self.failures = name, seconds, failures
        self.calls = self.drawn = 0
        self.lock = threading.Lock()

    async def complete(self, messages: Sequence[Message], sampling: Sampling = SAMPLING, n: int = 1) -> list[Reply]:
        with self.lock:
            self.calls += 1
            first, self.drawn = self.drawn, self.drawn + n
            failing = self.calls <= self.failures
        await asyncio.sleep(self.seconds)
        if failing:
            raise RuntimeError("upstream is down")
        return [Reply(str(first + i), "stop", Usage(1, 1)) for i in range(n)]


def texts(replies: Sequence[Sequence[Reply]]) -> list[list[str]]:
    return [[reply.text for reply in row] for row in replies]


def test_asked_once_and_answered_ever_after(tmp_path: Path) -> None:
    model = Numbered()
    cached = CachedChatModel(model, tmp_path / "r.db")
    assert cached.name == "numbered"
    first = complete_all(cached, WORDS)
    again = complete_all(cached, WORDS)
    anew = complete_all(CachedChatModel(model, tmp_path / "r.db"), WORDS)
    assert model.calls == 20
    assert texts(first) == texts(again) == texts(anew)
    assert not any(row[0].cached for row in first)
    assert all(row[0].cached for row in again + anew)
    assert first[0][0].usage == again[0][0].usage


def test_a_thousand_at_once_are_one_call(tmp_path: Path) -> None:
    model = Numbered()
    replies = complete_all(CachedChatModel(model, tmp_path / "r.db"), [HELLO] * 1000)
    assert model.calls == 1
    assert {row[0].text for row in replies} == {"0"}


def test_one_call_over_threads_and_their_loops(tmp_path: Path) -> None:
    model = Numbered(seconds=0.1)
    cached = CachedChatModel(model, tmp_path / "r.db")
    results: list[str] = []

    async def ask() -> None:
        rows = await asyncio.gather(*(cached.complete(HELLO) for _ in range(50)))
        results.extend(row[0].text for row in rows)

    threads = [threading.Thread(target=lambda: asyncio.run(ask())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert model.calls == 1
    assert results == ["0"] * 300


def test_draws_stay_several(tmp_path: Path) -> None:
    model = Numbered()
    cached = CachedChatModel(model, tmp_path / "r.db")
    assert texts(complete_all(cached, [HELLO], n=3)) == [["0", "1", "2"]]
    assert texts(complete_all(cached, [HELLO], n=2)) == [["0", "1"]]
    assert model.calls == 1
    more = complete_all(cached, [HELLO], n=5)[0]  # all are drawn again, those that are known stand
    assert [reply.text for reply in more] == ["0", "1", "2", "6", "7"]
    assert [reply.cached for reply in more] == [True, True, True, False, False]


def test_another_sampling_model_or_conversation_is_another_request(tmp_path: Path) -> None:
    model = Numbered()
    cached = CachedChatModel(model, tmp_path / "r.db")
    for sampling in (SAMPLING, Sampling(temperature=0.5), Sampling(seed=1)):
        complete_all(cached, [HELLO], sampling)
    complete_all(CachedChatModel(Numbered("other"), tmp_path / "r.db"), [HELLO])
    complete_all(cached, [[*HELLO, *HELLO]])
    assert model.calls == 4


def test_failures_reach_all_who_wait_and_are_not_kept(tmp_path: Path) -> None:
    model = Numbered(failures=1)
    cached = CachedChatModel(model, tmp_path / "r.db")

    async def ask() -> list[object]:
        return await asyncio.gather(*(cached.complete(HELLO) for _ in range(20)), return_exceptions=True)

    assert [str(each) for each in asyncio.run(ask())] == ["upstream is down"] * 20
    assert model.calls == 1
    assert texts(complete_all(cached, [HELLO])) == [["1"]]


def test_who_gives_up_leaves_the_call_to_those_who_wait(tmp_path: Path) -> None:
    model = Numbered(seconds=0.05)
    cached = CachedChatModel(model, tmp_path / "r.db")

    async def run() -> list[list[Reply]]:
        asking = [asyncio.create_task(cached.complete(HELLO)) for _ in range(10)]
        await asyncio.sleep(0.01)
        asking[0].cancel()  # the one whose call is under way
        asking[5].cancel()  # one that waits
        await asyncio.gather(*asking, return_exceptions=True)
        assert asking[0].cancelled() and asking[5].cancelled()
        return [task.result() for task in asking if not task.cancelled()]

    assert {row[0].text for row in asyncio.run(run())} == {"1"}
    assert model.calls == 2
    assert not cached._under_way


def test_one_that_waits_may_give_up_alone(tmp_path: Path) -> None:
    model = Numbered(seconds=0.05)
    cached = CachedChatModel(model, tmp_path / "r.db")

    async def run() -> list[list[Reply]]:
        first, second, third = (asyncio.create_task(cached.complete(HELLO)) for _ in range(3))
        await asyncio.sleep(0.01)
        second.cancel()
        return await asyncio.gather(first, third)

    assert texts(asyncio.run(run())) == [["0"], ["0"]]
    assert model.calls == 1


def test_a_reply_stored_while_one_looks_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Numbered()
    cached = CachedChatModel(model, tmp_path / "r.db")
    complete_all(cached, [HELLO])
    found, looks = cached._store.get, []

    def late(request: bytes, n: int) -> list[Reply] | None:
        looks.append(request)
        return None if len(looks) == 1 else found(request, n)  # at first the other's call had not ended

    monkeypatch.setattr(cached._store, "get", late)
    assert texts(complete_all(cached, [HELLO])) == [["0"]]
    assert model.calls == 1


def test_a_recording_replays_without_its_model(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    recorded = complete_all(CachedChatModel(Numbered(), path), WORDS, n=2)
    replay = ReplayChatModel(path)
    assert replay.name == "numbered"
    assert texts(complete_all(replay, WORDS, n=2)) == texts(recorded)
    assert texts(complete_all(Budget(max_calls=0).wrap(replay), WORDS, n=2)) == texts(recorded)
    with pytest.raises(
        MissingReplyError, match=r"lacks 1 of numbered to 2 messages that end with «user: new\\n», drawn"
    ) as caught:
        complete_all(replay, [[*HELLO, Message("user", "new\n")]])
    assert str(caught.value).isprintable()
    with pytest.raises(MissingReplyError, match=r"temperature=0\.0"):
        complete_all(replay, [WORDS[0]], Sampling(temperature=0))
    with pytest.raises(MissingReplyError, match="lacks 3 of numbered"):
        complete_all(replay, [WORDS[0]], n=3)


def test_which_model_to_replay(tmp_path: Path) -> None:
    path = tmp_path / "r.db"
    with pytest.raises(UserError, match="no store at"):
        ReplayChatModel(path)
    assert not path.exists()
    for name in ("a", "b"):
        complete_all(CachedChatModel(ScriptedChatModel(lambda m, s, i, name=name: name, name), path), [HELLO])
    with pytest.raises(UserError, match=r"holds 2 models; give identity=, one of \['a', 'b'\]"):
        ReplayChatModel(path)
    with pytest.raises(UserError, match=r"holds none of c, only of \['a', 'b'\]"):
        ReplayChatModel(path, "c")
    assert texts(complete_all(ReplayChatModel(path, "b"), [HELLO])) == [["b"]]
