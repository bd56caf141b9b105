"""Accuracy, perplexity and generated answers of a language model on the tasks of `tenfold.lm.tasks`."""

from __future__ import annotations

import math
import statistics
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from torch import nn

from tenfold.core.errors import UserError
from tenfold.lm.answers import GreedyGenerate, greedy_answers
from tenfold.lm.harness import harness_model
from tenfold.lm.loglikelihood import (
    TextEncoder,
    encode_pairs,
    loglikelihood,
    loglikelihood_rolling,
    model_max_len,
    score_tokens,
)
from tenfold.lm.tasks import PAPER_TASKS, Example, NotAvailable, Task, add_shots, final_number, find_task, load

__all__ = [
    "Scores",
    "evaluate",
    "evaluate_paper",
    "harness_model",
    "loglikelihood",
    "loglikelihood_rolling",
    "paper_rows",
]


class Scores(TypedDict):
    """Figures of one task; None where the task has no such figure.

    Attributes:
        acc: share of right answers (for generated answers: of exact matches).
        acc_norm, acc_bytes: acc with each choice's log-probability divided by its characters, by its UTF-8 bytes.
        ppl: exp of the mean negative log-probability of the targets.
        stderr: of acc: sample standard deviation / √n.
        n: rows.
        shots: demonstrations before each.
        truncated: scored texts that lost tokens on the left.
        groups: acc of each named part of the set, by kind of part (such as "paradigm") and name.
    """

    acc: float | None
    acc_norm: float | None
    acc_bytes: float | None
    ppl: float | None
    stderr: float | None
    n: int
    shots: int
    truncated: int
    groups: dict[str, dict[str, float]]


def evaluate(
    model: nn.Module,
    tokenizer: Any,
    tasks: str | Task | Sequence[str | Task],
    shots: int = 0,
    limit: int | None = None,
    data: str | Path | None = None,
    *,
    seed: int = 0,
    batch_tokens: int = 4096,
    max_len: int | None = None,
    prefix_id: int | None = None,
    dropless: bool = True,
    generate: GreedyGenerate | None = None,
) -> dict[str, Scores]:
    """Score a model on tasks.

    Args:
        model: maps ids (B, S) to logits (B, S, V).
        tokenizer: ours, Hugging Face's, or a `tokenizers.Tokenizer`.
        tasks: names (see `tenfold.lm.tasks.TASKS`) or `Task`s of your own.
        shots: demonstrations before every query, drawn by `seed`, never the query itself.
        limit: the first so many rows of each task (of minimal pairs, as many of each paradigm); None for all.
        data: folder with NAME.jsonl; None takes TENFOLD_DATA and the cache of `tenfold data get`.
        seed: of the demonstrations.
        batch_tokens: tokens of one batch; no effect on results.
        max_len, prefix_id, dropless: as in `loglikelihood`.
        generate: greedy generation for models that are not a `Decoder`.
    Returns:
        Task name to its figures, see `Scores`.
    Raises:
        UserError: unknown task, absent data, a bad row (file:line), too few rows for the demonstrations.
    """
    encoder = TextEncoder(tokenizer, prefix_id)
    max_len = max_len or model_max_len(model)
    results: dict[str, Scores] = {}
    for task in [find_task(t) for t in ([tasks] if isinstance(tasks, str | Task) else tasks)]:
        examples = prepare(task, None if data is None else Path(data), shots, limit, seed)
        if task.generates:
            prompts = [example.contexts[0] for example in examples]
            texts = greedy_answers(
                model,
                encoder,
                prompts,
                max_new_tokens=task.max_new_tokens,
                stop=task.stop,
                max_len=max_len,
                dropless=dropless,
                generate=generate,
            )
            right = [float(is_answer(task, text, e.answers)) for text, e in zip(texts, examples, strict=True)]
            room = None if max_len is None else max_len - task.max_new_tokens
            cut = 0 if room is None else sum(len(encoder.encode(prompt)) > room for prompt in prompts)
            results[task.name] = _scores(examples, shots, cut, right)
            continue
        scorable = [(c, " " + choice) for e in examples for c, choice in zip(e.contexts, e.choices, strict=True)]
        pairs = encode_pairs(encoder, scorable)
        flat = iter(score_tokens(model, pairs, batch_tokens, max_len=max_len, dropless=dropless))
        scored = [[next(flat) for _ in example.choices] for example in examples]
        results[task.name] = summarize(task, examples, scored, shots, sum(pair.truncated(max_len) for pair in pairs))
    return results


def prepare(task: Task, folder: Path | None, shots: int, limit: int | None, seed: int) -> list[Example]:
    """Rows of the task with their demonstrations, from the task's shots file or its other rows."""
    examples = load(task, folder, limit)
    if shots == 0:
        return examples
    if task.kind == "pair":
        raise UserError(f"shots: got {shots}, need 0 for {task.name} (minimal pairs have no context to show)")
    try:
        pool = load(task, folder, suffix="_shots")
    except NotAvailable:
        pool = load(task, folder)
    return add_shots(examples, pool, shots, seed, task.name)


def summarize(
    task: Task, examples: Sequence[Example], scored: Sequence[Sequence[tuple[float, bool]]], shots: int, truncated: int
) -> Scores:
    """Figures from the (log-probability, is_greedy) of every choice of every row."""
    if task.kind == "word":
        right = [float(greedy) for ((_, greedy),) in scored]
        mean = math.fsum(logp for ((logp, _),) in scored) / len(scored)
        return _scores(examples, shots, truncated, right, ppl=math.exp(-mean) if mean > -700 else math.inf)
    logps = [[logp for logp, _ in row] for row in scored]
    if task.kind == "pair":
        # Strictly above: a model that scores all sentences alike gets 0, not 1.
        right = [float(good > bad) for good, bad in logps]
        return _scores(examples, shots, truncated, right)
    right = [float(_argmax(row) == e.gold) for row, e in zip(logps, examples, strict=True)]
    if task.kind == "contexts":
        # One continuation for all contexts: lengths are equal, normalising says nothing.
        return _scores(examples, shots, truncated, right)
    characters = [_normalized_hit(row, e, [len(c) for c in e.choices]) for row, e in zip(logps, examples, strict=True)]
    utf8 = [
        _normalized_hit(row, e, [len(c.encode()) for c in e.choices]) for row, e in zip(logps, examples, strict=True)
    ]
    return _scores(examples, shots, truncated, right, characters, utf8)


def _normalized_hit(logps: Sequence[float], example: Example, lengths: Sequence[int]) -> float:
    return float(_argmax([logp / length for logp, length in zip(logps, lengths, strict=True)]) == example.gold)


def _argmax(values: Sequence[float]) -> int:
    return max(range(len(values)), key=lambda i: (values[i], -i))


def _scores(
    examples: Sequence[Example],
    shots: int,
    truncated: int,
    right: list[float],
    norm: list[float] | None = None,
    size: list[float] | None = None,
    ppl: float | None = None,
) -> Scores:
    groups: dict[str, dict[str, list[float]]] = {}
    for example, hit in zip(examples, right, strict=True):
        for part, value in example.groups.items():
            groups.setdefault(part, {}).setdefault(value, []).append(hit)
    return {
        "acc": statistics.fmean(right),
        "acc_norm": statistics.fmean(norm) if norm else None,
        "acc_bytes": statistics.fmean(size) if size else None,
        "ppl": ppl,
        "stderr": statistics.stdev(right) / math.sqrt(len(right)) if len(right) > 1 else None,
        "n": len(right),
        "shots": shots,
        "truncated": truncated,
        "groups": {part: {name: statistics.fmean(h) for name, h in hits.items()} for part, hits in groups.items()},
    }


def is_answer(task: Task, text: str, answers: Sequence[str]) -> bool:
    """Whether a generated answer is right: the number after ####, or an accepted answer up to case and punctuation."""
    if task.kind == "number":
        return final_number(text) in answers
    return _plain(text) in {_plain(answer) for answer in answers}


_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _plain(text: str) -> str:
    return text.strip().lower().translate(_NO_PUNCTUATION)


PaperRow = tuple[str, int, Scores | None, str]  # task, shots, scores or None, reason it is n/a


@dataclass(frozen=True)
class PaperTable:
    """The paper's evaluation: thirteen tasks with its shots; a task without data has `scores` None and a reason."""

    rows: tuple[PaperRow, ...]

    def average(self, shots: int) -> tuple[float | None, int, int]:
        """Mean accuracy over the tasks of this shot count that have data; how many they are, and how many there are."""
        group = [scores for _, k, scores, _ in self.rows if k == shots]
        accs = [scores["acc"] for scores in group if scores is not None and scores["acc"] is not None]
        return (statistics.fmean(accs) if accs else None), len(accs), len(group)

    def as_dicts(self) -> list[dict[str, Any]]:
        """One dictionary a task: its figures, the reason where it has none, and the paper's figure ("n/a")."""
        keys = ("acc", "acc_norm", "acc_bytes", "ppl", "stderr", "n", "truncated")
        return [
            {"task": name, "shots": shots, **{key: scores[key] if scores else None for key in keys},  # type: ignore[literal-required]
             "reason": reason, "paper": "n/a"}
            for name, shots, scores, reason in self.rows
        ]  # fmt: skip

    def __str__(self) -> str:
        lines = [f"{'task':<14} shots     acc  acc_norm     ppl  stderr      n  paper"]
        for row in self.as_dicts():
            if row["reason"]:
                reason = row["reason"].removeprefix(f"{row['task']}: ")
                lines.append(f"{row['task']:<14} {row['shots']:>5}     n/a  ({reason})")
                continue
            cells = (_cell(row[key], width) for key, width in (("acc", 7), ("acc_norm", 9), ("ppl", 7), ("stderr", 7)))
            lines.append(f"{row['task']:<14} {row['shots']:>5} {' '.join(cells)} {row['n']:>6}  n/a")
        for shots in sorted({row[1] for row in self.rows}):
            mean, have, total = self.average(shots)
            lines.append(f"{f'{shots}-shot mean':<14} {'':>5} {_cell(mean, 7)}  over {have} of {total} tasks")
        return "\n".join(lines)


def _cell(value: float | None, width: int) -> str:
    return f"{'-' if value is None else f'{value:.4f}' if value < 100 else f'{value:.4g}':>{width}}"


def evaluate_paper(
    model: nn.Module, tokenizer: Any, limit: int | None = None, data: str | Path | None = None, **options: Any
) -> PaperTable:
    """The paper's thirteen tasks with its shots (nine 0-shot, two 1-shot, MMLU 5-shot, GSM8K 8-shot).

    A task that cannot run here (data absent, or no generation) becomes a row "n/a" with the reason; bad rows are errors
    as in `evaluate`, whose options (seed, batch_tokens, max_len, generate, …) are taken here too. The paper's figures
    per task are not public.
    """
    return PaperTable(tuple(paper_rows(model, tokenizer, limit, data, **options)))


def paper_rows(
    model: nn.Module, tokenizer: Any, limit: int | None = None, data: str | Path | None = None, **options: Any
) -> Iterator[PaperRow]:
    """The rows of `evaluate_paper`, each as soon as its task is scored."""
    if data is not None and not Path(data).is_dir():
        raise UserError(f"data: no such folder: {data}")
    for name in PAPER_TASKS:
        task = find_task(name)
        shots = task.paper_shots or 0
        try:
            yield name, shots, evaluate(model, tokenizer, [task], shots, limit, data, **options)[name], ""
        except NotAvailable as error:
            yield name, shots, None, str(error)
