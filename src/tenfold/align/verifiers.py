"""Prompts whose responses a program can judge: what rejection sampling, MDLOO and iTeC learn from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from tenfold.align.chat_samples import read_messages
from tenfold.align.rollout import Response
from tenfold.align.toy_instructions import Item, check, toy_instruct
from tenfold.core import data
from tenfold.core.errors import UserError
from tenfold.lm.chat_eval import last_number
from tenfold.lm.tasks import final_number, numbered_rows, read_lines
from tenfold.text.messages import Message

GSM8K_TRAIN = "02-afm/gsm8k_train.jsonl.gz"
ANSWERS = ("answer", "solution", "completion", "ground_truth")  # columns of a right response


@dataclass(frozen=True)
class Task:
    """A prompt and its judge.

    Args:
        messages: the prompt.
        check: reward of a response's text, in [0, 1].
        answer: a right response, to learn from; None where none is known.
        kind: of the task, for reports by kind.
    """

    messages: tuple[Message, ...]
    check: Callable[[str], float]
    answer: str | None = None
    kind: str = ""


# The scores of every response to every task.
Scorer = Callable[[Sequence[Task], Sequence[Sequence[Response]]], list[list[float]]]


def toy_tasks(seed: int, count: int, checkers: Sequence[str] | None = None) -> list[Task]:
    """The first `count` instructions of `toy_instruct(seed, checkers)`."""
    items: Iterable[Item] = islice(toy_instruct(seed, checkers), count)
    return [Task(item.messages, partial(check, item), item.answer, item.checker) for item in items]


def gsm8k_tasks(path: str | Path | None = None) -> list[Task]:
    """Arithmetic problems; a response is right if it ends in the right number.

    Args:
        path: JSON Lines with question and answer; None takes GSM8K's training part among the data sets.
    Raises:
        UserError: absent, or a row without its fields.
    """
    source = data.path(GSM8K_TRAIN) if path is None else Path(path)
    if not source.is_file():
        raise UserError(f"data not found: {source}; need JSON Lines with question and answer")
    tasks = []
    for line, row in read_lines(source):
        question, answer = row.get("question"), row.get("answer")
        number = final_number(answer) if isinstance(answer, str) else None
        if not isinstance(question, str) or not isinstance(answer, str) or number is None:
            raise UserError(f'{source}:{line}: need a question and an answer that ends in "#### number"')
        tasks.append(Task((gsm8k_prompt(question),), partial(_is_number, number=number), answer, "gsm8k"))
    return tasks


def read_tasks(rows: Sequence[Mapping[str, Any]] | str | Path) -> list[Task]:
    """Tasks of rows, or of a JSON Lines file of them (plain or .gz), with the columns that trl's online trainers read.

    Args:
        rows: objects with "prompt", a text or messages in OpenAI's form, and where it is known "answer" (also named
            "solution", "completion" or "ground_truth"). A response is right where it equals the answer but for blanks
            around it; of an answer that ends in "#### number" the number counts alone. Without an answer a response
            scores 0: such tasks need another scorer, a reward model.
    Raises:
        UserError: no rows, or a bad one.
    """
    return [_task(row, where) for where, row in numbered_rows(rows, "tasks", "prompt and answer")]


def _task(row: Mapping[str, Any], where: str) -> Task:
    if "prompt" not in row:
        raise UserError(f"{where}: got {', '.join(sorted(row))}, need prompt, and answer where it is known")
    prompt = row["prompt"]
    messages = (
        [Message("user", prompt)] if isinstance(prompt, str) and prompt else read_messages(prompt, f"{where}: prompt")
    )
    answer = next((row[name] for name in ANSWERS if row.get(name) is not None), None)
    if isinstance(answer, list):
        answer = read_messages(answer, f"{where}: answer")[-1].content
    if answer is None:
        return Task(tuple(messages), _unknown)
    if not isinstance(answer, str | int | float) or isinstance(answer, bool):
        raise UserError(f"{where}: answer: got {type(answer).__name__}, need a text or a number")
    number = final_number(str(answer))
    right = partial(_is_text, answer=str(answer).strip()) if number is None else partial(_is_number, number=number)
    return Task(tuple(messages), right, str(answer))


def _is_text(text: str, answer: str) -> float:
    return float(text.strip() == answer)


def _unknown(text: str) -> float:
    return 0.0


def gsm8k_prompt(question: str) -> Message:
    """A problem as `chat_eval.run_gsm8k` asks it."""
    return Message(
        "user", f"{question}\n\nSolve it step by step. On a last line write #### and the answer as a bare number."
    )


def number_correct(text: str, answer: str) -> float:
    """1 where the number after #### of a text, or without one its last number, is the answer's; else 0.

    Args:
        text: of a model: untrusted.
        answer: a bare number, or a solution that ends in "#### number".
    """
    return _is_number(text, final_number(answer) or answer)


def _is_number(text: str, number: str) -> float:
    found = last_number(final_number(text) or text)
    return float(found is not None and found == last_number(number))


def verify(tasks: Sequence[Task], responses: Sequence[Sequence[Response]]) -> list[list[float]]:
    """The scores that the tasks' own checks give: a `Scorer`."""
    pairs = zip(tasks, responses, strict=True)
    return [[task.check(response.text) for response in group] for task, group in pairs]
