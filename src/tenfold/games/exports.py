"""Transcripts in the forms that other trainers read. Only a player's own words are ever learned from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from tenfold.core.errors import UserError
from tenfold.games.credit import Credit, episode_rewards
from tenfold.games.files import official_game, write_rows
from tenfold.games.game import ERROR, Episode, Game, make_game
from tenfold.text.messages import Message
from tenfold.text.tokenizer import Tokenizer

Format = Literal["official", "messages", "verifiers", "trl_grpo", "ppo", "hf_dataset"]


def export(
    episodes: Iterable[Episode],
    format: Format,
    path: str | Path,
    *,
    tokenizer: Tokenizer | None = None,
    game: Game | None = None,
    gamma: float = 0.8,
    credit: Credit = "winner",
) -> int:
    """Write games for another trainer; games that broke down are left out.

    | format | one row is | fields |
    |---|---|---|
    | official | a game | history, target_word, max_turns |
    | messages, hf_dataset | a game as one role saw it | messages, role, reward, outcome, id |
    | verifiers | the same | prompt, completion, answer, reward, task, info |
    | trl_grpo | an utterance | prompt_ids, completion_ids, logprobs, reward, group_id, role |
    | ppo | a game as one role saw it | tokens, loss_mask, logprobs, rewards, advantages, role, id |

    hf_dataset is Parquet; the others are JSON Lines where the path ends in .jsonl, otherwise a JSON list.

    Rewards of a game are those of `Game.returns`, those of utterances `episode_rewards`. Log-probabilities are those of
    the playing model, null where they were not kept or the stored tokens are not the template's.

    Args:
        tokenizer: with a chat template; for trl_grpo and ppo.
        game: with the prompts that were played; None makes each game with its defaults.
        gamma, credit: of the rewards of utterances.
    Returns:
        rows written.
    Raises:
        ValueError: unknown format, or no tokenizer where one is needed. UserError: nothing to write.
    """
    if format not in get_args(Format):
        raise ValueError(f"format: got {format!r}, need one of {', '.join(get_args(Format))}")
    if format in ("trl_grpo", "ppo") and tokenizer is None:
        raise ValueError(f"tokenizer: got None, need one for {format}")
    made: dict[str, Game] = {}
    rows: list[dict[str, Any]] = []
    for episode in episodes:
        if episode.verdict.outcome == ERROR:
            continue
        if episode.game not in made:
            made[episode.game] = game or make_game(episode.game)
        rows += _rows(episode, made[episode.game], format, tokenizer, gamma, credit)
    if not rows:
        raise UserError(f"episodes: got none to write to {path}")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if format == "hf_dataset":
        _write_parquet(rows, path)
    else:
        write_rows(rows, path)
    return len(rows)


def _rows(
    episode: Episode, game: Game, format: Format, tokenizer: Tokenizer | None, gamma: float, credit: Credit
) -> list[dict[str, Any]]:
    if format == "official":
        return [official_game(episode)]
    rewards = dict(episode_rewards(episode, episode.verdict.winner, gamma, credit)) if episode.verdict.winner else {}
    if format == "trl_grpo":
        assert tokenizer is not None
        return [_utterance(episode, game, ply, tokenizer, rewards) for ply in range(episode.verdict.length)]
    spoke = {turn.role for turn in episode.turns[: episode.verdict.length]}
    roles = [role for role in game.roles if role in spoke]
    if format == "ppo":
        assert tokenizer is not None
        return [_stream(episode, game, role, tokenizer, rewards) for role in roles]
    build = _verifiers if format == "verifiers" else _conversation
    return [build(episode, game, role) for role in roles]


def _seen(episode: Episode, game: Game, role: str) -> list[Message]:
    """The game up to its decision as a role saw it, its own words being the assistant's."""
    return game.observe(episode.state(episode.verdict.length), role)


def _conversation(episode: Episode, game: Game, role: str) -> dict[str, Any]:
    return {
        "messages": _plain(_seen(episode, game, role)),
        "role": role,
        "reward": game.returns(episode.verdict)[role],
        "outcome": episode.verdict.outcome,
        "id": episode.id,
    }


def _verifiers(episode: Episode, game: Game, role: str) -> dict[str, Any]:
    messages = _seen(episode, game, role)
    first = next((i for i, message in enumerate(messages) if message.role == "assistant"), len(messages))
    return {
        "prompt": _plain(messages[:first]),
        "completion": _plain(messages[first:]),
        "answer": str(episode.setup.get("target_word", "")),
        "reward": game.returns(episode.verdict)[role],
        "task": episode.game,
        "info": {"role": role, "outcome": episode.verdict.outcome, "id": episode.id},
    }


def _utterance(
    episode: Episode, game: Game, ply: int, tokenizer: Tokenizer, rewards: Mapping[int, float]
) -> dict[str, Any]:
    from tenfold.align.chat_samples import prompt_ids  # brings torch along

    turn = episode.turns[ply]
    told = game.observe(episode.state(ply), turn.role)
    end = [] if tokenizer.end_id is None else [tokenizer.end_id]
    said = turn.token_ids if turn.token_ids is not None else [*tokenizer.encode(turn.text), *end]
    return {
        "prompt_ids": prompt_ids(tokenizer, told),
        "completion_ids": list(said),
        "logprobs": None if turn.logprobs is None else list(turn.logprobs),
        "reward": rewards.get(ply, 0.0),
        "group_id": json.dumps(dict(episode.setup), sort_keys=True),
        "role": turn.role,
    }


def _stream(
    episode: Episode, game: Game, role: str, tokenizer: Tokenizer, rewards: Mapping[int, float]
) -> dict[str, Any]:
    """One row of tokens; every utterance's reward stands on its last token, and is the advantage of all its tokens."""
    from tenfold.align.chat_samples import chat_sample  # brings torch along

    messages = _seen(episode, game, role)
    own = [i for i, message in enumerate(messages) if message.role == "assistant"]
    plies = [ply for ply, turn in enumerate(episode.turns[: episode.verdict.length]) if turn.role == role]
    if len(own) != len(plies):
        raise UserError(f"{episode.id}: its prompts hold no chat; export ppo with a game of form 'chat'")
    whole = chat_sample(tokenizer, messages, learn=own)
    size = len(whole.ids)
    logprobs: list[float] | None = [0.0] * size
    earned, advantages = [0.0] * size, [0.0] * size
    for ply, tokens in zip(plies, _runs(whole.learned), strict=True):
        known = episode.turns[ply]
        if logprobs is not None and known.logprobs is not None and known.token_ids == whole.ids[tokens]:
            logprobs[tokens] = known.logprobs
        else:
            logprobs = None
        reward = rewards.get(ply, 0.0)
        earned[tokens.stop - 1] = reward
        advantages[tokens] = [reward] * (tokens.stop - tokens.start)
    mask = [int(learned) for learned in whole.learned]
    row = {"tokens": list(whole.ids), "loss_mask": mask, "logprobs": logprobs, "rewards": earned}
    return {**row, "advantages": advantages, "role": role, "id": episode.id}


def _runs(learned: tuple[bool, ...]) -> list[slice]:
    """Where the learned tokens stand together."""
    edges = [i for i in range(len(learned) + 1) if (i > 0 and learned[i - 1]) != (i < len(learned) and learned[i])]
    return [slice(start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True)]


def _plain(messages: Iterable[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def _write_parquet(rows: list[dict[str, Any]], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tenfold.core.atomic import replacing

    with replacing(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows), temporary)
