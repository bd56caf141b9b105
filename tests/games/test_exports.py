"""Transcripts for other trainers: whose tokens are learned, what each is worth, that files open again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tenfold.core.errors import UserError
from tenfold.games.credit import utterance_rewards
from tenfold.games.exports import Format, export
from tenfold.games.files import load_official_games
from tenfold.games.game import Episode
from tenfold.games.taboo import AdversarialTaboo
from tenfold.text.tokenizer import Tokenizer

Make = Callable[..., Episode]


@pytest.fixture
def games(episode: Make) -> list[Episode]:
    return [
        episode(["a tree", "what?", "it is red", "an apple", "late"], "attacker wins", length=4),
        episode(["hm", "ha"], "tied game", word="pear"),
        episode([], "error", word="oak"),
    ]


def rows(games: list[Episode], format: Format, path: Path, **options: Any) -> list[dict[str, Any]]:
    count = export(games, format, path, **options)
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(found) == count
    return found


def test_official_files_round_trip(games: list[Episode], tmp_path: Path) -> None:
    assert export(games, "official", tmp_path / "games.json") == 2
    again = load_official_games(tmp_path / "games.json")
    assert [[turn.text for turn in game.turns] for game in again] == [
        [turn.text for turn in game.turns] for game in games[:2]
    ]


def test_conversations_of_each_role(games: list[Episode], tmp_path: Path) -> None:
    found = rows(games, "messages", tmp_path / "m.jsonl")
    assert [(row["role"], row["reward"]) for row in found] == [("attacker", 1), ("defender", -1), ("attacker", 0), ("defender", 0)]  # fmt: skip
    said = [[m["content"] for m in row["messages"] if m["role"] == "assistant"] for row in found]
    assert said == [["a tree", "it is red"], ["what?", "an apple"], ["hm"], ["ha"]]
    verifiers = rows(games, "verifiers", tmp_path / "v.jsonl")
    for row, whole in zip(verifiers, found, strict=True):
        assert row["prompt"] + row["completion"] == whole["messages"]
        assert row["completion"][0]["role"] == "assistant" and row["prompt"][-1]["role"] == "user"
    assert verifiers[0]["answer"] == "apple" and verifiers[0]["info"]["outcome"] == "attacker wins"


def test_a_parquet_file_holds_the_conversations(games: list[Episode], tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    export(games, "hf_dataset", tmp_path / "m.parquet")
    assert pq.read_table(tmp_path / "m.parquet").to_pylist() == rows(games, "messages", tmp_path / "m.jsonl")


def test_utterances_with_their_tokens(games: list[Episode], tokenizer: Tokenizer, tmp_path: Path) -> None:
    played = games[0]
    turn = replace(played.turns[2], token_ids=(7, 8), logprobs=(-0.5, -1.5))
    games[0] = replace(played, turns=(*played.turns[:2], turn, *played.turns[3:]))
    found = rows(games[:1], "trl_grpo", tmp_path / "g.jsonl", tokenizer=tokenizer)
    assert [row["role"] for row in found] == ["attacker", "defender", "attacker", "defender"]
    assert [row["reward"] for row in found] == [*utterance_rewards(2)[:1], 0.0, *utterance_rewards(2)[1:], 0.0]
    assert found[2]["completion_ids"] == [7, 8] and found[2]["logprobs"] == [-0.5, -1.5]
    assert (
        found[0]["completion_ids"] == [*tokenizer.encode("a tree"), tokenizer.end_id] and found[0]["logprobs"] is None
    )
    told = AdversarialTaboo().observe(played.state(2), "attacker")
    prompt = [{"role": message.role, "content": message.content} for message in told]
    assert found[2]["prompt_ids"] == tokenizer.apply_chat_template(prompt, add_generation_prompt=True)
    assert len({row["group_id"] for row in found}) == 1


def test_streams_learn_ones_own_words_alone(games: list[Episode], tokenizer: Tokenizer, tmp_path: Path) -> None:
    found = rows(games[:1], "ppo", tmp_path / "p.jsonl", tokenizer=tokenizer, credit="zero_sum")
    for row, sign, texts in zip(found, (1, -1), (["a tree", "it is red"], ["what?", "an apple"]), strict=True):
        own = [id for id, on in zip(row["tokens"], row["loss_mask"], strict=True) if on]
        assert own == [id for text in texts for id in [*tokenizer.encode(text), tokenizer.end_id]]
        assert [reward for reward in row["rewards"] if reward] == pytest.approx(
            [sign * r for r in utterance_rewards(2)]
        )
        assert sum(row["rewards"]) == pytest.approx(sign)
        assert all(
            (advantage != 0) == bool(on) for advantage, on in zip(row["advantages"], row["loss_mask"], strict=True)
        )
        assert row["logprobs"] is None


def test_streams_carry_log_probabilities_where_the_tokens_are_the_template_s(
    games: list[Episode], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    turns = []
    for turn in games[0].turns:
        ids = (*tokenizer.encode(turn.text), tokenizer.end_id)
        turns.append(replace(turn, token_ids=ids, logprobs=tuple(-0.1 * (i + 1) for i in range(len(ids)))))
    game = replace(games[0], turns=tuple(turns))
    (attacker, _) = rows([game], "ppo", tmp_path / "p.jsonl", tokenizer=tokenizer)
    kept = [value for value, on in zip(attacker["logprobs"], attacker["loss_mask"], strict=True) if on]
    assert kept == pytest.approx([*turns[0].logprobs, *turns[2].logprobs])
    assert not any(value for value, on in zip(attacker["logprobs"], attacker["loss_mask"], strict=True) if not on)


def test_bad_arguments(games: list[Episode], tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="format: got 'xml', need one of official, messages"):
        export(games, "xml", tmp_path / "x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tokenizer: got None, need one for ppo"):
        export(games, "ppo", tmp_path / "x")
    with pytest.raises(UserError, match="episodes: got none to write"):
        export(games[2:], "messages", tmp_path / "x")
    with pytest.raises(UserError, match="export ppo with a game of form 'chat'"):
        export(games, "ppo", tmp_path / "x", tokenizer=tokenizer, game=AdversarialTaboo(form="text"))
