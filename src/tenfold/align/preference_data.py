"""Preferences between two responses to one prompt: rows of files in, token pairs and their batches out.

A row is a JSON object; columns are those of trl and of OpenAI's preference files:

| columns | meaning |
|---|---|
| prompt, chosen, rejected | texts, or lists of messages |
| chosen, rejected | lists of messages; what they begin with alike is the prompt |
| input: {messages}, preferred_output, non_preferred_output | lists of messages |

Beside them, where known: "level", how much better the chosen response is, and "chosen_grades" and "rejected_grades",
objects of grades 0..2 by the names in `GRADES`.
"""

# Shape legend: P pairs, T tokens of the longest row, G grades

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from tenfold.align.chat_samples import chat_sample, read_messages
from tenfold.align.logprobs import CACHED, logprobs_of
from tenfold.align.samples import Sample, pad
from tenfold.core.errors import UserError
from tenfold.core.stream import ArrayStream, Batcher
from tenfold.lm.loss import IGNORED
from tenfold.lm.tasks import numbered_rows
from tenfold.text.messages import Message
from tenfold.text.tokenizer import Tokenizer

Level = Literal["significantly", "better", "slightly", "negligibly"]
LEVELS: tuple[Level, ...] = get_args(Level)
GRADES = ("if", "verb", "truth", "harm")  # instruction following, verbosity, truthfulness, harmlessness


@dataclass(frozen=True)
class Preference:
    """Of two responses, which is better.

    Args:
        prompt: the turns that both answer.
        chosen, rejected: the two responses, which differ.
        level: how much better the chosen one is; "better" where nobody said.
        chosen_grades, rejected_grades: of each response its grades 0 (worst) to 2; missing ones are unknown.
    """

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    level: Level = "better"
    chosen_grades: Mapping[str, int] = field(default_factory=dict)
    rejected_grades: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.prompt:
            raise ValueError("prompt: got no turns, need at least one")
        if self.chosen == self.rejected:
            raise ValueError(f"rejected: got the chosen text again ({self.chosen[:40]!r}), need another one")
        if self.level not in LEVELS:
            raise ValueError(f"level: got {self.level!r}, need one of {', '.join(LEVELS)}")
        for name in ("chosen_grades", "rejected_grades"):
            for grade, value in getattr(self, name).items():
                if grade not in GRADES or isinstance(value, bool) or value not in (0, 1, 2):
                    raise ValueError(f"{name}: got {grade}: {value!r}, need 0, 1 or 2 for {', '.join(GRADES)}")


@dataclass(frozen=True)
class Pair:
    """A preference in tokens.

    Args:
        chosen, rejected: prompt and response, of which the response is learned.
        level: index into `LEVELS`.
        grades: of the chosen and the rejected response, -100 where unknown, in the order of `GRADES`.
        references: Σ ln π_ref of the two responses, where it is kept.
    """

    chosen: Sample
    rejected: Sample
    level: int
    grades: tuple[tuple[int, ...], tuple[int, ...]]
    references: tuple[float, float] | None = None


def read_preferences(rows: Sequence[Mapping[str, Any]] | str | Path) -> list[Preference]:
    """Preferences of rows (see the table above), or of a JSON Lines file of them (plain or .gz).

    Raises:
        UserError: no rows, or a bad one: equal texts, an unknown level, a grade outside 0..2, other columns.
    """
    numbered = numbered_rows(rows, "preferences", "prompt, chosen and rejected")
    return [_preference(row, where) for where, row in numbered]


def encode_preferences(preferences: Sequence[Preference], tokenizer: Tokenizer, length: int) -> list[Pair]:
    """Token pairs, each row cut to its last `length` tokens, since rewards are read at the end.

    Raises:
        UserError: a chat template that refuses a prompt.
    """
    return [_pair(preference, tokenizer, length) for preference in preferences]


def with_references(pairs: Sequence[Pair], reference: nn.Module, *, batch_tokens: int = 8192) -> list[Pair]:
    """The pairs with the reference's log-probabilities, so that training needs no second model."""
    samples = [sample for pair in pairs for sample in (pair.chosen, pair.rejected)]
    sums = logprobs_of(reference, samples, batch_tokens=batch_tokens)
    return [
        replace(pair, references=(chosen, rejected))
        for pair, chosen, rejected in zip(pairs, sums[::2], sums[1::2], strict=True)
    ]


def preference_batches(
    pairs: Sequence[Pair], batch_size: int, *, seed: int = 0, rank: int = 0, world: int = 1
) -> Batcher:
    """An endless stream of batches of pairs in the order of (seed, epoch) that resumes exactly (see `collate_pairs`)."""
    return Batcher(ArrayStream(pairs, seed=seed), batch_size, collate=collate_pairs, rank=rank, world=world)


def collate_pairs(pairs: Sequence[Pair]) -> dict[str, Tensor]:
    """A batch of P pairs.

    Returns:
        (2P, T) "ids", "targets" and "mask", as `pad` gives them: first the chosen rows, then the rejected ones; "level",
        int64 (P,); "grades", int64 (2P, G); where every pair keeps them "ref_logprob", (2P,).
    """
    batch = pad([pair.chosen for pair in pairs] + [pair.rejected for pair in pairs])
    batch["level"] = torch.tensor([pair.level for pair in pairs])
    batch["grades"] = torch.tensor([pair.grades[side] for side in (0, 1) for pair in pairs])
    kept = [pair.references for pair in pairs if pair.references is not None]
    if len(kept) == len(pairs):
        batch[CACHED] = torch.tensor([reference[side] for side in (0, 1) for reference in kept])
    return batch


def _pair(preference: Preference, tokenizer: Tokenizer, length: int) -> Pair:
    last = len(preference.prompt)
    chosen, rejected = (
        chat_sample(tokenizer, [*preference.prompt, Message("assistant", text)], learn=[last]).cut(length, "end")
        for text in (preference.chosen, preference.rejected)
    )
    grades = (preference.chosen_grades, preference.rejected_grades)
    known = tuple(tuple(given.get(grade, IGNORED) for grade in GRADES) for given in grades)
    return Pair(chosen, rejected, LEVELS.index(preference.level), (known[0], known[1]))


def _preference(row: Mapping[str, Any], where: str) -> Preference:
    if "preferred_output" in row:
        given = row.get("input")
        asked = given.get("messages") if isinstance(given, Mapping) else None
        row = {**row, "prompt": asked, "chosen": row["preferred_output"], "rejected": row.get("non_preferred_output")}
    if missing := {"chosen", "rejected"} - set(row):
        raise UserError(f"{where}: got {', '.join(sorted(row))}, need {', '.join(sorted(missing))} too")
    chosen, rejected = (_turns(row[name], "assistant", f"{where}: {name}") for name in ("chosen", "rejected"))
    if "prompt" in row:
        prompt = _turns(row["prompt"], "user", f"{where}: prompt")
    else:
        shared = _shared(chosen, rejected)
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        if len(turns) != 1 or turns[0].role != "assistant":
            raise UserError(f"{where}: {name}: got {len(turns)} turns behind the prompt, need one of the assistant")
    try:
        return Preference(
            tuple(prompt),
            chosen[0].content,
            rejected[0].content,
            row.get("level") or "better",
            row.get("chosen_grades") or {},
            row.get("rejected_grades") or {},
        )
    except (AttributeError, ValueError) as error:
        raise UserError(f"{where}: {error}") from None


def _turns(value: Any, role: str, where: str) -> list[Message]:
    return [Message(role, value)] if isinstance(value, str) else read_messages(value, where)


def _shared(first: Sequence[Message], second: Sequence[Message]) -> int:
    """Turns that both begin with; the last turn of each is its response, even where those are alike too."""
    longest = min(len(first), len(second)) - 1
    return next((i for i in range(longest) if first[i] != second[i]), longest)
