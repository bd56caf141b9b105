"""What alignment learns from: the user's JSON lines, or one of the sets named here."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TypeVar

from tenfold.align.logprobs import logprobs_of
from tenfold.align.preference_data import Pair, Preference, encode_preferences, read_preferences
from tenfold.align.preference_sources import review_preferences, solution_preferences
from tenfold.align.reward_calibration import RewardReport, reward_report
from tenfold.align.reward_model import RewardModel
from tenfold.align.rollout import Response, respond
from tenfold.align.samples import Sample
from tenfold.align.sft import sft_samples
from tenfold.align.small_tasks import TASK_SETS
from tenfold.align.verifiers import Task, gsm8k_tasks, read_tasks, toy_tasks, verify
from tenfold.core.errors import UserError
from tenfold.core.mesh import device_type
from tenfold.core.stream import permutation
from tenfold.lm.decoder import Decoder
from tenfold.lm.tasks import read_lines
from tenfold.recipes.afm.post_config import Sampled, Toy
from tenfold.text.messages import Sampling
from tenfold.text.tokenizer import Tokenizer

T = TypeVar("T")

TOY, GSM8K, REVIEWS, SOLUTIONS = "toy", "gsm8k", "reviews", "solutions"
CHAT = "Well: "  # before an answer that says more than was asked
WITH_CHECKS = (TOY, GSM8K, *TASK_SETS)  # sets whose answers a program can check
HELD_OUT = 0.05  # of the user's rows, and of GSM8K's
# Seeds of the toy instructions: what is learned from answers, online, and measured on never meets.
LEARNED_SEED, ONLINE_SEED, HELD_OUT_SEED = 1, 2, 3
SPREAD = 1000  # between the seeds of a chain


@dataclass(frozen=True)
class Tasks:
    """Prompts to learn from, and others, whose answers are known, to measure on."""

    learned: list[Task]
    held_out: list[Task]


def find_tasks(data: str, toy: Toy, count: int, seed: int = 0) -> Tasks:
    """Tasks whose answers a program can check.

    Args:
        data: "toy", "gsm8k", "extract", "summarize", or a file of rows with a prompt and, where it is known, an answer
            (`read_tasks`).
        toy: kinds and sizes of the made-up ones.
        count: that are learned from, of the made-up ones; files give all they have.
        seed: of the made-up ones.
    Raises:
        UserError: no such file, or a bad row.
    """
    if data == TOY:
        return Tasks(
            toy_tasks(SPREAD * seed + ONLINE_SEED, count, toy.kinds),
            toy_tasks(SPREAD * seed + HELD_OUT_SEED, toy.held_out, toy.kinds),
        )
    if data in TASK_SETS:
        make = TASK_SETS[data]
        return Tasks(
            make(SPREAD * seed + ONLINE_SEED, count, "learned"),
            make(SPREAD * seed + HELD_OUT_SEED, toy.held_out, "held_out"),
        )
    found = gsm8k_tasks() if data == GSM8K else read_tasks(data)
    first, last = parted(found, seed)
    return Tasks(first, [task for task in last if task.answer is not None][: toy.held_out])


def fine_tuning_rows(
    data: str, toy: Toy, tokenizer: Tokenizer, length: int, seed: int = 0
) -> tuple[list[Sample], list[Sample]]:
    """Samples to learn from, and others to measure the loss on.

    Args:
        data: "toy", "gsm8k", "extract", "summarize", or a file of conversations (`align.sft`).
        toy: kinds and sizes of the made-up ones.
        tokenizer, length: as in `sft_samples`.
        seed: of the made-up ones, and of the split.
    """
    if data == TOY:
        learned = toy_tasks(SPREAD * seed + LEARNED_SEED, toy.learned, toy.kinds)
        held_out = toy_tasks(SPREAD * seed + HELD_OUT_SEED, toy.held_out, toy.kinds)
        chatty = sft_samples(_rows(learned, toy.chatty, seed), tokenizer, length)
        return chatty, sft_samples(_rows(held_out), tokenizer, length)
    if data in TASK_SETS:
        make = TASK_SETS[data]
        learned = make(SPREAD * seed + LEARNED_SEED, toy.learned, "learned")
        held_out = make(SPREAD * seed + HELD_OUT_SEED, toy.held_out, "held_out")
        return sft_samples(_rows(learned), tokenizer, length), sft_samples(_rows(held_out), tokenizer, length)
    samples = sft_samples(_rows(gsm8k_tasks()) if data == GSM8K else data, tokenizer, length)
    return parted(samples, seed)


def find_preferences(data: str, seed: int = 0) -> tuple[list[Preference], list[Preference]]:
    """Preferences to learn from and held out.

    Args:
        data: "reviews" (graded sentences), "solutions" (of arithmetic problems), or a file (`read_preferences`).
        seed: of the split.
    """
    if data == REVIEWS:
        return review_preferences(seed=seed)
    return parted(solution_preferences() if data == SOLUTIONS else read_preferences(data), seed)


def pairs_of(preferences: Sequence[Preference], tokenizer: Tokenizer, length: int) -> list[Pair]:
    """Token pairs, those whose responses differ within the rows.

    Raises:
        UserError: none are left.
    """
    pairs = [pair for pair in encode_preferences(preferences, tokenizer, length) if pair.chosen != pair.rejected]
    if not pairs:
        raise UserError("preferences: none is left whose two responses differ; give more, or longer rows (--length)")
    return pairs


def is_preference_file(data: str) -> bool:
    """Whether a file's first row holds a preference."""
    path = Path(data)
    if not path.is_file():
        return False
    first = next(read_lines(path), (0, {}))[1]
    return bool({"chosen", "preferred_output"} & set(first))


def parted(rows: Sequence[T], seed: int) -> tuple[list[T], list[T]]:
    """Most of the rows, and 5 % of them (at least one) drawn by the seed; a lone row stands on both sides."""
    order = permutation(len(rows), seed, 0).tolist()
    count = max(1, round(HELD_OUT * len(rows)))
    return [rows[i] for i in order[count:]] or list(rows), [rows[i] for i in order[:count]]


def answers_of(
    model: Decoder,
    tokenizer: Tokenizer,
    tasks: Sequence[Task],
    k: int,
    how: Sampled,
    seed: int,
    keep: Path | None = None,
) -> list[list[Response]]:
    """k answers to every task."""
    sampling = Sampling(temperature=how.temperature, max_tokens=how.max_tokens, seed=seed)
    model = model.to(device_type()).eval()
    return respond(model, tokenizer, [task.messages for task in tasks], k, sampling, keep=keep)


def accuracy(
    model: Decoder, tokenizer: Tokenizer, tasks: Sequence[Task], k: int, how: Sampled, seed: int
) -> dict[str, float]:
    """Mean check of k answers to each task: over all ("accuracy"), by kind, and of the likeliest answer ("greedy")."""
    scores = verify(tasks, answers_of(model, tokenizer, tasks, k, how, seed))
    likeliest = verify(tasks, _greedy(model, tokenizer, tasks, how))
    kinds: dict[str, list[float]] = {}
    for task, given in zip(tasks, scores, strict=True):
        kinds.setdefault(task.kind or "all", []).extend(given)
    return {
        "accuracy": fmean([score for given in scores for score in given]),
        "greedy": fmean([score for given in likeliest for score in given]),
        **{f"accuracy of {kind}": fmean(given) for kind, given in sorted(kinds.items()) if len(kinds) > 1},
    }


def examples(model: Decoder, tokenizer: Tokenizer, tasks: Sequence[Task], how: Sampled) -> list[dict[str, object]]:
    """Some tasks, the likeliest answer to each, and its check."""
    said = _greedy(model, tokenizer, tasks, how)
    return [
        {
            "prompt": task.messages[-1].content[:200],
            "answer": group[0].text[:200],
            "right": "yes" if task.check(group[0].text) >= 1 else "no",
        }
        for task, group in zip(tasks, said, strict=True)
    ]


def _greedy(model: Decoder, tokenizer: Tokenizer, tasks: Sequence[Task], how: Sampled) -> list[list[Response]]:
    sampling = Sampling(temperature=0.0, max_tokens=how.max_tokens)
    return respond(model.to(device_type()).eval(), tokenizer, [task.messages for task in tasks], 1, sampling)


def judged(model: RewardModel, pairs: Sequence[Pair]) -> RewardReport:
    """A reward model on held-out pairs."""
    chosen, rejected = model.scores([pair.chosen for pair in pairs]), model.scores([pair.rejected for pair in pairs])
    return reward_report(chosen, rejected, [pair.level for pair in pairs])


def mean_loss(model: Decoder, samples: Sequence[Sample]) -> float:
    """Nats a learned token over samples."""
    return -sum(logprobs_of(model.to(device_type()), samples)) / sum(sample.targets for sample in samples)


def _rows(tasks: Sequence[Task], chatty: float = 0.0, seed: int = 0) -> list[dict[str, object]]:
    """Prompts with their right answers, of which a share begins with words that no check accepts."""
    chance = random.Random(seed)
    return [
        {"prompt": task.messages[-1].content, "completion": f"{CHAT if chance.random() < chatty else ''}{task.answer}"}
        for task in tasks
    ]


def in_turn(tasks: Sequence[Task], count: int, seed: int) -> Callable[[int], list[Task]]:
    """Iteration to its tasks: all in turn, then again in another order."""

    def of(iteration: int) -> list[Task]:
        first, last = iteration * count, (iteration + 1) * count
        epochs = range(first // len(tasks), -(-last // len(tasks)))
        order = [i for epoch in epochs for i in permutation(len(tasks), seed, epoch).tolist()]
        start = first - epochs.start * len(tasks)
        return [tasks[i] for i in order[start : start + count]]

    return of
