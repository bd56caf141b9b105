"""Self-play: the same games whatever the concurrency, crash or order; what happens when models fail."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tenfold.games.experts import scripted_attacker, scripted_defender
from tenfold.games.files import Clues
from tenfold.games.game import ERROR, Episode, keyed_seed
from tenfold.games.self_play import LONGEST, SELF_PLAY, OpponentPool, Speaker, play
from tenfold.games.store import TranscriptStore
from tenfold.games.taboo import AdversarialTaboo
from tenfold.games.twenty_questions import TwentyQuestions
from tenfold.lm.chat import LocalChatModel
from tenfold.lm.decoder import Decoder
from tenfold.text.chat import ScriptedChatModel
from tenfold.text.endpoint_errors import ContextLengthError, EndpointError, RefusedError
from tenfold.text.messages import Message, Reply, Sampling, Usage
from tenfold.text.tokenizer import Tokenizer


class Slow:
    """A model that answers after a moment, and knows how many of its answers were under way at once."""

    name = "slow"

    def __init__(self) -> None:
        self.now = self.most = 0

    async def complete(self, messages: Sequence[Message], sampling: Sampling, n: int = 1) -> list[Reply]:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.001 * (1 + (sampling.seed or 0) % 5))
        self.now -= 1
        return [Reply(f"word {sampling.seed}", "stop", Usage(10, 3))]


class Failing:
    """A model that fails in some games, told by a word of its prompt."""

    name = "failing"

    def __init__(self, error: Exception, word: str) -> None:
        self.error, self.word, self.asked = error, word, 0

    async def complete(self, messages: Sequence[Message], sampling: Sampling, n: int = 1) -> list[Reply]:
        self.asked += 1
        if self.word in messages[0].content:
            raise self.error
        return [Reply("hm", "stop", Usage(1, 1))]


def setups(words: Sequence[str]) -> list[dict[str, str]]:
    return [{"target_word": word} for word in words]


def experts(lexicon: Sequence[Clues]) -> dict[str, Speaker]:
    return {"attacker": scripted_attacker(lexicon), "defender": scripted_defender(lexicon)}


def both(model: Any) -> dict[str, Any]:
    return {"attacker": model, "defender": model}


def by_id(episodes: Iterator[Episode]) -> dict[str, Episode]:
    return {episode.id: episode for episode in episodes}


@pytest.mark.parametrize("count", [600, pytest.param(2000, marks=pytest.mark.slow)])
def test_transcripts_do_not_depend_on_concurrency_or_order(count: int, lexicon: list[Clues], tmp_path: Path) -> None:
    words = setups([lexicon[index % len(lexicon)].word for index in range(count)])
    lines = []
    for concurrency, order in ((1, 1), (512, -1)):
        path = tmp_path / f"{concurrency}.jsonl"
        made = list(
            play(AdversarialTaboo(), experts(lexicon), words[::order], seed=3, store=path, concurrency=concurrency)
        )
        assert len({episode.id for episode in made}) == count
        lines.append(sorted(path.read_text().splitlines()))
    assert lines[0] == lines[1]
    assert len({episode.verdict.outcome for episode in made}) == 4


def test_slow_models_are_asked_many_at_a_time_and_never_more() -> None:
    game, words = AdversarialTaboo(max_turns=2), setups([f"w{i}x" for i in range(60)])
    one, many = Slow(), Slow()
    alone = by_id(play(game, both(one), words[:10], seed=0, concurrency=1))
    together = by_id(play(game, both(many), words, seed=0, concurrency=20))
    assert one.most == 1 and 15 < many.most <= 20
    assert all(together[id] == episode for id, episode in alone.items())
    turns = next(iter(together.values())).turns
    assert len(turns) == 4 and len({turn.text for turn in turns}) == 4
    assert (turns[0].n_prompt, turns[0].n_new, turns[0].logprob_sum) == (10, 3, None)


def test_games_begin_only_as_others_are_taken() -> None:
    begun = 0

    def endless() -> Iterator[Mapping[str, Any]]:
        nonlocal begun
        while True:
            begun += 1
            yield {"target_word": f"w{begun}"}

    games = play(AdversarialTaboo(), both(Slow()), endless(), seed=0, concurrency=8)
    for _ in range(5):
        next(games)
    time.sleep(0.2)
    assert begun <= 5 + 8 + 1
    games.close()  # type: ignore[attr-defined]


def test_a_store_is_resumed_and_equal_setups_are_other_games(lexicon: list[Clues], tmp_path: Path) -> None:
    path, words = tmp_path / "games.jsonl", setups(["apple", "pear", "apple", "apple"])
    whole = by_id(play(AdversarialTaboo(), experts(lexicon), words, seed=0))
    assert len(whole) == 4
    started = play(AdversarialTaboo(), experts(lexicon), words, seed=0, store=path)
    next(started)
    started.close()  # type: ignore[attr-defined]
    with TranscriptStore(path) as store:
        assert len(store) == 1
        rest = by_id(play(AdversarialTaboo(), experts(lexicon), words, seed=0, store=store))
        assert len(rest) == 3
        assert by_id(iter(store)) == whole
        assert list(play(AdversarialTaboo(), experts(lexicon), words, seed=0, store=store)) == []
        assert len(list(play(AdversarialTaboo(), experts(lexicon), words, seed=1, store=store))) == 4
        with pytest.raises(ValueError, match="with 8 episodes, need an empty one or resume=True"):
            next(play(AdversarialTaboo(), experts(lexicon), words, seed=0, store=store, resume=False))


_KILLED = """
import sys, time
from tenfold.games.experts import scripted_attacker, scripted_defender, spelling_clues
from tenfold.games.self_play import play
from tenfold.games.taboo import AdversarialTaboo
words = [f"word{i}" for i in range(400)]
clues = spelling_clues(words)
game = AdversarialTaboo()
games = play(game, {"attacker": scripted_attacker(clues), "defender": scripted_defender(clues, guess=.1)},
             [{"target_word": word} for word in words], seed=0, store=sys.argv[1], concurrency=16)
for number, episode in enumerate(games):
    if number % 20 == 0:
        print(number, flush=True)
        time.sleep(0.02)
"""


def test_killed_runs_lose_and_repeat_nothing(tmp_path: Path) -> None:
    path = tmp_path / "games.jsonl"
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", _KILLED, str(path)], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(4):
                process.stdout.readline()
            process.send_signal(signal.SIGKILL)
    before = len(TranscriptStore(path, read_only=True))
    assert 150 < before < 400
    subprocess.run([sys.executable, "-W", "ignore", "-c", _KILLED, str(path)], check=True, stdout=subprocess.DEVNULL)
    ids = [episode.id for episode in TranscriptStore(path, read_only=True)]
    assert len(ids) == len(set(ids)) == 400


_MANY = """
import resource, sys
from tenfold.games.self_play import play
from tenfold.games.taboo import AdversarialTaboo
from tenfold.text.chat import ScriptedChatModel
says = ScriptedChatModel(lambda messages, sampling, index: "hm")
setups = ({"target_word": f"word{i}"} for i in range(20_000))
games = play(AdversarialTaboo(1), {"attacker": says, "defender": says}, setups, seed=0, store=sys.argv[1], concurrency=64)
for number, episode in enumerate(games):
    if number in (2_000, 19_999):
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux alone")
def test_memory_does_not_grow_with_the_games(tmp_path: Path) -> None:
    """18 000 games more: at most a kilobyte each, as 100 MB for 100 000."""
    command = [sys.executable, "-c", _MANY, str(tmp_path / "games.jsonl")]
    early, late = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert late - early < 18_000


def test_a_game_without_an_answer_is_an_error_and_is_played_again(tmp_path: Path) -> None:
    path = tmp_path / "games.jsonl"
    words = setups(["fine", "broken", "good"])
    failing = Failing(EndpointError("endpoint: no answer after 6 tries"), "`broken`")
    made = list(play(AdversarialTaboo(), both(failing), words, seed=0, store=path))
    assert {e.setup["target_word"]: e.verdict.outcome for e in made} == {"fine": "tied game", "broken": ERROR, "good": "tied game"}  # fmt: skip
    (error,) = [e.verdict for e in made if e.verdict.outcome == ERROR]
    assert error.reason == "endpoint: no answer after 6 tries" and error.length == 0
    assert len(TranscriptStore(path, read_only=True)) == 2
    (again,) = play(AdversarialTaboo(), both(Slow()), words, seed=0, store=path)
    assert again.setup["target_word"] == "broken" and again.verdict.outcome == "tied game"


@pytest.mark.parametrize("error", [RefusedError("endpoint: 401: no such key", status=401), KeyError("ours")])
def test_a_model_that_refuses_stops_everything(error: Exception) -> None:
    failing = Failing(error, "`w3`")
    with pytest.raises(type(error)) as caught:
        list(play(AdversarialTaboo(), both(failing), setups([f"w{i}" for i in range(500)]), seed=0, concurrency=4))
    assert caught.value is error
    assert failing.asked < 200


def test_conversations_that_are_too_long_lose_their_oldest_rounds() -> None:
    seen = []

    class Short:
        name = "short"

        async def complete(self, messages: Sequence[Message], sampling: Sampling, n: int = 1) -> list[Reply]:
            seen.append(messages)
            if len(messages) > 5:
                raise ContextLengthError("too long")
            return [Reply(f"said {sampling.seed}", "stop", Usage(1, 1))]

    (episode,) = play(AdversarialTaboo(), both(Short()), setups(["apple"]), seed=0)
    assert len(episode.turns) == 10
    last = seen[-1]
    assert last[0].content.endswith("Give your next message.") or "Infer the target word" in last[0].content
    assert [message.content for message in last[1:]] == [turn.text for turn in episode.turns[-len(last) : -1]]
    attackers = [chat for chat in seen if "`apple`" in chat[0].content]
    assert {chat[1].content for chat in attackers} == {"The game has just started."}  # whole rounds went
    short: list[Message] = []

    class Never(Short):
        async def complete(self, messages: Sequence[Message], sampling: Sampling, n: int = 1) -> list[Reply]:
            short.extend(messages)
            raise ContextLengthError("never fits")

    (dead,) = play(AdversarialTaboo(), both(Never()), setups(["apple"]), seed=0)
    assert (dead.verdict.outcome, dead.verdict.reason) == (ERROR, "never fits")


def test_without_early_stop_the_talk_goes_on() -> None:
    said = both(ScriptedChatModel(lambda messages, sampling, index: "an apple"))
    (short,) = play(AdversarialTaboo(max_turns=3), said, setups(["apple"]), seed=0)
    (whole,) = play(AdversarialTaboo(max_turns=3), said, setups(["apple"]), seed=0, early_stop=False)
    assert (len(short.turns), len(whole.turns)) == (1, 6)
    assert short.verdict == whole.verdict


def test_foreign_text_is_bounded_and_storable(tmp_path: Path) -> None:
    reply = Reply("\ud800" + "x" * 1_000_000, "length", Usage(1, 1))
    model = ScriptedChatModel(lambda messages, sampling, index: reply)
    (episode,) = play(AdversarialTaboo(max_turns=1), both(model), setups(["apple"]), seed=0, store=tmp_path / "g.jsonl")
    assert episode.turns[0].text == "?" + "x" * (LONGEST - 1)
    assert list(TranscriptStore(tmp_path / "g.jsonl", read_only=True)) == [episode]


def test_each_utterance_has_a_seed_of_its_own_and_tokens_on_request() -> None:
    seeds = []

    def speak(messages: Sequence[Message], sampling: Sampling, index: int) -> Reply:
        seeds.append(sampling.seed)
        return Reply("hm", "stop", Usage(7, 2), token_ids=(4, 5), logprobs=(-0.5, -0.25) if sampling.logprobs else None)

    said = both(ScriptedChatModel(speak))
    (episode,) = play(AdversarialTaboo(max_turns=2), said, setups(["apple"]), seed=9)
    assert seeds == [keyed_seed(9, episode.id, ply) for ply in range(4)]
    assert episode.turns[0].token_ids is None and episode.turns[0].logprobs is None
    with_logprobs = replace(SELF_PLAY, logprobs=True)
    (episode,) = play(AdversarialTaboo(max_turns=2), said, setups(["apple"]), seed=9, sampling=with_logprobs)
    turn = episode.turns[0]
    assert (turn.token_ids, turn.logprobs, turn.logprob_sum) == ((4, 5), (-0.5, -0.25), -0.75)


def test_opponents_come_from_a_pool(lexicon: list[Clues]) -> None:
    old, new = (scripted_defender(lexicon, name=name) for name in ("old", "new"))
    words = setups([entry.word for entry in lexicon] * 10)
    names = []
    for choice in ("uniform", "latest"):
        pool = OpponentPool([old, new], choice)  # type: ignore[arg-type]
        made = play(AdversarialTaboo(), {**experts(lexicon), "defender": pool}, words, seed=0)
        names.append([episode.speakers["defender"] for episode in made])
    assert 15 < names[0].count("old") < 45
    assert set(names[1]) == {"new"}
    with pytest.raises(ValueError, match="models: got none"):
        OpponentPool([])
    with pytest.raises(ValueError, match="choice: got 'best'"):
        OpponentPool([old], "best")  # type: ignore[arg-type]


def test_it_works_where_an_event_loop_runs(lexicon: list[Clues]) -> None:
    async def notebook() -> int:
        return len(list(play(AdversarialTaboo(), experts(lexicon), setups(["apple"]), seed=0)))

    assert asyncio.run(notebook()) == 1


def test_another_game_is_played_alike(tmp_path: Path) -> None:
    asks = ScriptedChatModel(lambda m, s, i: "I know the word! It is `apple`!" if len(m) > 4 else "Is it red?")
    speakers = {"guesser": asks, "answerer": ScriptedChatModel(lambda m, s, i: "Yes.")}
    path = tmp_path / "games.jsonl"
    made = list(play(TwentyQuestions(), speakers, setups(["apple", "pear"]), seed=0, store=path))
    assert {e.setup["target_word"]: e.verdict.outcome for e in made} == {
        "apple": "guesser wins",
        "pear": "word not found",
    }
    assert sorted(TranscriptStore(path, read_only=True), key=lambda e: e.id) == sorted(made, key=lambda e: e.id)


def test_a_local_model_plays_the_same_games_in_every_batch(
    decoder: Callable[..., Decoder], tokenizer: Tokenizer
) -> None:
    sampling = Sampling(temperature=1.2, top_k=50, max_tokens=4, min_tokens=1, logprobs=True)
    game, words = AdversarialTaboo(max_turns=2), setups(["apple", "pear", "oak", "fig"])
    runs = []
    for concurrency, max_batch in ((1, 1), (4, 4)):
        with LocalChatModel(decoder(max_len=1024), tokenizer, max_batch=max_batch) as model:
            runs.append(by_id(play(game, both(model), words, seed=0, sampling=sampling, concurrency=concurrency)))
    assert {id: [t.text for t in e.turns] for id, e in runs[0].items()} == {
        id: [t.text for t in e.turns] for id, e in runs[1].items()
    }
    turn = next(iter(runs[0].values())).turns[0]
    assert turn.token_ids is not None and turn.logprobs is not None and 1 <= len(turn.logprobs) <= 4
    assert turn.logprob_sum == pytest.approx(sum(turn.logprobs))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"speakers": {}}, "speakers: got none, need attacker, defender"),
        ({"speakers": {"attacker": 1, "guesser": 2}}, "speakers: got attacker, guesser"),
        ({"concurrency": 0}, "concurrency: got 0"),
    ],
)
def test_bad_arguments(change: dict[str, Any], message: str, lexicon: list[Clues]) -> None:
    arguments = {"speakers": experts(lexicon), "setups": setups(["apple"]), "seed": 0, **change}
    with pytest.raises(ValueError, match=message):
        play(AdversarialTaboo(), **arguments)


def test_a_bad_setup_is_told_by_the_game(lexicon: list[Clues]) -> None:
    with pytest.raises(ValueError, match="target: got ''"):
        list(play(AdversarialTaboo(), experts(lexicon), setups(["apple", ""]), seed=0))
