"""Word lists, games, training rows and fine-tuning rows in the files of the paper's authors, read and written."""

from __future__ import annotations

import json
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenfold.core.atomic import write_atomic
from tenfold.core.errors import UserError
from tenfold.games.credit import GameRow
from tenfold.games.game import Episode, as_turn, episode_id, in_order
from tenfold.games.referee import ROLES, Rules, check_target, check_turns, judge
from tenfold.text.messages import Message

# The form that Alpaca's rows are put into, everywhere the same.
_ALPACA = (
    "Below is an instruction that describes a task{more}. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{instruction}{input}\n\n### Response:"
)


@dataclass(frozen=True)
class Clues:
    """A word and words that hint at it."""

    word: str
    clues: tuple[str, ...]


def load_target_words(path: str | Path, top: int | None = None) -> list[str]:
    """Words of a text file, one a line, in their order; a word that comes again counts once.

    Args:
        top: the first so many words; the paper's list is in order of frequency.
    Raises:
        UserError: no such file, no words, or not UTF-8.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"spag: no target words at {path}; pass --words <file> (one word per line)")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start})") from None
    words = [word for line in lines if (word := line.strip())]
    unique = list(dict.fromkeys(words))
    if not unique:
        raise UserError(f"{path} has no words; give one a line")
    if len(unique) < len(words):
        warnings.warn(f"{path}: {len(words) - len(unique)} words come again and count once", stacklevel=2)
    return unique[:top]


def load_lexicon(path: str | Path) -> list[Clues]:
    """Words with their clues: JSON Lines of `{"word", "clues": […]}`.

    Raises:
        UserError: no such file, a row of another form, a word twice.
    """
    found: dict[str, Clues] = {}
    for where, row in read_rows(path):
        word, clues = row.get("word"), row.get("clues")
        listed = isinstance(clues, list) and bool(clues) and all(isinstance(clue, str) and clue for clue in clues)
        if not (isinstance(word, str) and word and listed) or word in found:
            raise UserError(f"{where}: need a new word and clues, a list of words")
        assert isinstance(clues, list)
        found[word] = Clues(word, tuple(clues))
    return list(found.values())


def load_official_games(path: str | Path, rules: Rules = "official") -> list[Episode]:
    """Games of the authors' JSON: a list of `{"history": [{"role", "content"}], "target_word", "max_turns"}`.

    Args:
        rules: of the referee; the files hold no verdicts.
    Returns:
        episodes with the whole histories.
    Raises:
        UserError: no such file, or a game of another form.
    """
    episodes = []
    repeats: Counter[str] = Counter()
    for where, row in read_rows(path):
        try:
            history = row.get("history")
            if not isinstance(history, list):
                raise ValueError(f"history: got {type(history).__name__}, need a list of utterances")
            turns = tuple(as_turn(each) for each in history)
            in_order(turns, ROLES)
            setup = {"target_word": row.get("target_word"), "max_turns": row.get("max_turns"), "rules": rules}
            check_target(setup["target_word"])
            check_turns(setup["max_turns"])
            verdict = judge(turns, setup["target_word"], setup["max_turns"], rules)  # type: ignore[arg-type]
        except ValueError as error:
            raise UserError(f"{where}: {error}") from None
        key = json.dumps(setup)
        id = episode_id("adversarial_taboo", setup, 0, repeats[key])
        repeats[key] += 1
        speakers = dict.fromkeys(ROLES, Path(path).name)
        episodes.append(Episode(id, "adversarial_taboo", setup, 0, speakers, turns, verdict))
    return episodes


def official_game(episode: Episode) -> dict[str, Any]:
    """A game as the authors' files hold it."""
    return {
        "history": [{"role": turn.role, "content": turn.text} for turn in episode.turns],
        "target_word": episode.setup["target_word"],
        "max_turns": episode.setup["max_turns"],
    }


def load_training_rows(path: str | Path) -> list[GameRow]:
    """Rows that `save_training_rows` or the authors' code wrote.

    Raises:
        UserError: no such file, or a row without query and target, or with another kind of field.
    """
    return [_training_row(row, where) for where, row in read_rows(path)]


def load_sft(path: str | Path, *, chat: bool = False) -> list[GameRow]:
    """Rows of fine-tuning: `{"instruction", "input", "output"}` as Alpaca's, or a prompt (query) and a target (answer).

    Self-instruct's `{"instruction", "instances": [{"input", "output"}, …]}` are read as well.

    Args:
        chat: instructions are a user's turn, for models with a chat template, and not in Alpaca's form.
    Raises:
        UserError: no such file, a row with other columns, or no row with an answer.
    """
    found: list[GameRow] = []
    for where, row in read_rows(path):
        instances = row.get("instances", [row] if "output" in row else None)
        if "instruction" in row and isinstance(instances, list):
            found += [_instruction_row(row["instruction"], instance, where, chat) for instance in instances]
        else:
            found.append(_training_row({**row, "type": "sft"}, where))
    answered = [row for row in found if row.target]
    if not answered:
        raise UserError(f"{path}: no row has an answer; need at least one")
    return answered


def _instruction_row(asked: Any, instance: Any, where: str, chat: bool) -> GameRow:
    fields = instance if isinstance(instance, dict) else {}
    given, answer = (fields.get(name) or "" for name in ("input", "output"))
    if not all(isinstance(text, str) for text in (asked, given, answer)):
        raise UserError(f"{where}: instruction, input, output: need texts")
    if chat:
        return GameRow((Message("user", f"{asked}\n\n{given}".strip()),), answer.strip(), sft=True)
    more = ", paired with an input that provides further context" if given else ""
    shown = f"\n\n### Input:\n{given}" if given else ""
    return GameRow(_ALPACA.format(more=more, instruction=asked, input=shown), answer.strip(), sft=True)


def save_training_rows(rows: Iterable[GameRow], path: str | Path) -> None:
    """Write rows as a JSON list, or one a line where the name ends in .jsonl."""
    write_rows([_row_json(row) for row in rows], path)


def _row_json(row: GameRow) -> dict[str, Any]:
    query: Any = row.query
    if not isinstance(query, str):
        query = [{"role": message.role, "content": message.content} for message in query]
    if row.sft:
        return {"query": query, "target": row.target, "type": "sft", "weight": row.weight}
    return {"query": query, "target": row.target, "reward": row.reward, "role": row.role, "weight": row.weight}


def _training_row(row: Mapping[str, Any], where: str) -> GameRow:
    query = row.get("query", row.get("prompt"))
    target = row.get("target", row.get("answer"))
    try:
        if isinstance(query, list):
            query = tuple(Message(str(each["role"]), each["content"]) for each in query)
        if not isinstance(query, str | tuple) or not isinstance(target, str):
            raise TypeError("query and target: need texts")
        sft = row.get("type") == "sft"
        reward, weight = float(row.get("reward", 0.0)), float(row.get("weight", 1.0))
        if not (math.isfinite(reward) and math.isfinite(weight)):
            raise ValueError(f"reward, weight: got {reward}, {weight}, need finite numbers")
        return GameRow(query, target.strip(), reward, "" if sft else str(row.get("role", "")), weight, sft)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{where}: {error}; need query (or prompt) and target (or answer)") from None


def read_rows(path: str | Path) -> list[tuple[str, dict[str, Any]]]:
    """The objects of a JSON list or of JSON Lines, whatever the file's name says, and where each stands.

    Raises:
        UserError: no such file, not UTF-8, broken JSON (with the byte), or rows that are no objects.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"file not found: {path}")
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start})") from None
    if text.lstrip().startswith("["):
        rows = _parsed(text, f"{path}", 0)
        places = [f"{path}: row {index}" for index in range(1, len(rows) + 1)]
    else:
        rows, places, offset = [], [], 0
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                rows.append(_parsed(line, f"{path}:{number}", offset))
                places.append(f"{path}:{number}")
            offset += len(line.encode()) + 1
    for where, row in zip(places, rows, strict=True):
        if not isinstance(row, dict):
            raise UserError(f"{where}: got {type(row).__name__}, need an object")
    return list(zip(places, rows, strict=True))


def _parsed(text: str, where: str, offset: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        at = offset + len(text[: error.pos].encode())
        raise UserError(f"{where}: not JSON: {error.msg} (byte {at}); is the file cut off?") from None
    except (RecursionError, ValueError) as error:
        raise UserError(f"{where}: not JSON: {error}") from None


def write_rows(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Write objects as a JSON list, or one a line where the name ends in .jsonl."""
    path = Path(path)
    if path.suffix == ".jsonl":
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        text = json.dumps(rows, ensure_ascii=False, indent=1)
    write_atomic(path, text)
