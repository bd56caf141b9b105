"""IFEval: does a response follow the instructions in its prompt that a program can check?

Source: Zhou et al. 2023, "Instruction-Following Evaluation for Large Language Models", arXiv 2311.07911.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

from tenfold.core import data
from tenfold.core.errors import UserError
from tenfold.core.statistics import Interval, wilson
from tenfold.lm.ifeval_checks import INSTRUCTIONS, Check, make_check
from tenfold.lm.tasks import read_lines

__all__ = ["INSTRUCTIONS", "Item", "Scores", "Verdict", "check", "evaluate", "judge", "load", "variants"]

FILE = "02-afm/ifeval_400.jsonl"


@dataclass(frozen=True)
class Item:
    """A prompt and the instructions in it.

    Args:
        key: its name.
        prompt: what the model is asked.
        instruction_ids: names of the instructions, keys of `INSTRUCTIONS`.
        kwargs: the arguments of each; nulls count as absent.
    Raises:
        ValueError: no instruction, an unknown one, an argument missing or of another kind.
    """

    key: str
    prompt: str
    instruction_ids: tuple[str, ...]
    kwargs: tuple[Mapping[str, Any], ...]

    def __post_init__(self) -> None:
        if not self.instruction_ids or len(self.instruction_ids) != len(self.kwargs):
            raise ValueError(
                f"kwargs: got {len(self.kwargs)} for {len(self.instruction_ids)} instructions, need as many, at least 1"
            )
        _ = self.checks  # a fault shows here, not in the middle of an evaluation

    @cached_property
    def checks(self) -> tuple[Check, ...]:
        """One check an instruction."""
        pairs = zip(self.instruction_ids, self.kwargs, strict=True)
        return tuple(make_check(name, kwargs, self.prompt) for name, kwargs in pairs)


@dataclass(frozen=True)
class Verdict:
    """Whether a response follows each instruction of its prompt, to the letter and loosely."""

    key: str
    strict: tuple[bool, ...]
    loose: tuple[bool, ...]


class Scores(TypedDict):
    """Shares of prompts and instructions that are followed, with Wilson's 95 % intervals.

    A prompt is followed if all its instructions are. The interval takes instructions of one prompt as independent,
    which they are not quite: rank models by the prompts.

    Attributes:
        prompt_strict, prompt_loose: over prompts.
        instruction_strict, instruction_loose: over instructions.
        by_instruction: instruction id to its (strict, loose) shares.
        verdicts: of every item, in order.
    """

    prompt_strict: Interval
    prompt_loose: Interval
    instruction_strict: Interval
    instruction_loose: Interval
    by_instruction: dict[str, tuple[Interval, Interval]]
    verdicts: list[Verdict]


def load(path: str | Path | None = None) -> list[Item]:
    """Read prompts: JSON Lines with key, prompt, instruction_id_list and kwargs, plain or gzip.

    Args:
        path: None takes the 400 prompts among the data sets.
    Raises:
        UserError: absent, or a bad row, named as file:line.
    """
    source = data.path(FILE) if path is None else Path(path)
    if not source.is_file():
        raise UserError(f"data not found: {source}; need JSON Lines with prompt, instruction_id_list and kwargs")
    items = [_item(row, f"{source}:{line}", line) for line, row in read_lines(source)]
    if not items:
        raise UserError(f"{source}: got no rows, need at least one")
    return items


def _item(row: Mapping[str, Any], where: str, line: int) -> Item:
    prompt, names, kwargs = row.get("prompt"), row.get("instruction_id_list"), row.get("kwargs")
    if not isinstance(prompt, str) or not prompt.strip():
        raise UserError(f"{where}: prompt: got {prompt!r}, need a text")
    for field, values, kind in (("instruction_id_list", names, str), ("kwargs", kwargs, dict)):
        if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
            raise UserError(f"{where}: {field}: got {values!r}, need a list of {kind.__name__}")
    assert isinstance(names, list) and isinstance(kwargs, list)
    try:
        return Item(str(row.get("key", line)), prompt, tuple(names), tuple(kwargs))
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def check(instruction_id: str, kwargs: Mapping[str, Any], prompt: str, response: str) -> bool:
    """Whether a response follows one instruction, to the letter; a blank response follows none.

    Args:
        instruction_id: a key of `INSTRUCTIONS`.
        kwargs: its arguments; nulls and arguments of other instructions are ignored.
        prompt: the whole prompt.
        response: the model's.
    Raises:
        ValueError: an unknown instruction, an argument missing or of another kind.
    """
    return make_check(instruction_id, kwargs, prompt)(response)


def variants(response: str) -> list[str]:
    """What the loose check also accepts: without its first line, its last line or both, each without stars too.

    The lines hold what models like to put around an answer ("Sure, here it is:"), the stars are their bold type.
    """
    lines = response.split("\n")
    cut = [response, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return list(dict.fromkeys(cut + [text.replace("*", "") for text in cut]))


def judge(item: Item, response: str) -> Verdict:
    """Check one response against all instructions of its prompt."""
    tries = variants(response)
    strict = tuple(follows(response) for follows in item.checks)
    pairs = zip(item.checks, strict, strict=True)
    loose = tuple(followed or any(follows(text) for text in tries) for follows, followed in pairs)
    return Verdict(item.key, strict, loose)


def evaluate(items: Sequence[Item], responses: Sequence[str]) -> Scores:
    """Judge one response an item.

    Args:
        items: the prompts.
        responses: of the model, in the order of the items.
    Raises:
        ValueError: no items, or another number of responses.
    """
    if not items or len(items) != len(responses):
        raise ValueError(f"responses: got {len(responses)} for {len(items)} items, need one each, at least 1")
    verdicts = [judge(item, response) for item, response in zip(items, responses, strict=True)]
    strict, loose = [verdict.strict for verdict in verdicts], [verdict.loose for verdict in verdicts]
    by_instruction: dict[str, list[tuple[bool, bool]]] = {}
    for item, verdict in zip(items, verdicts, strict=True):
        for name, *followed in zip(item.instruction_ids, verdict.strict, verdict.loose, strict=True):
            by_instruction.setdefault(name, []).append((followed[0], followed[1]))
    return {
        "prompt_strict": _share([all(followed) for followed in strict]),
        "prompt_loose": _share([all(followed) for followed in loose]),
        "instruction_strict": _share([one for followed in strict for one in followed]),
        "instruction_loose": _share([one for followed in loose for one in followed]),
        "by_instruction": {
            name: (_share([one for one, _ in pairs]), _share([one for _, one in pairs]))
            for name, pairs in sorted(by_instruction.items())
        },
        "verdicts": verdicts,
    }


def _share(followed: Sequence[bool]) -> Interval:
    return wilson(sum(followed), len(followed))
