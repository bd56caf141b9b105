"""Experiments on an optimizer: does it look at the errors it is shown, and does a gain exceed what other words alone do?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tenfold.core.config import need
from tenfold.core.errors import UserError
from tenfold.prompts import roles
from tenfold.prompts.candidates import Candidate, Proposal, State
from tenfold.prompts.diagnostics import (
    cause_of,
    nmi_test,
    paraphrase_sensitivity,
    prior_bias,
    reflection_correctness,
    shuffled,
)
from tenfold.prompts.evaluation import evaluate_async
from tenfold.prompts.optimizer import PromptOptimizer
from tenfold.prompts.resampling import paraphrases
from tenfold.prompts.roles import Mistake, parse_tags
from tenfold.prompts.session import Ask, Session
from tenfold.prompts.task import Task
from tenfold.text.budget import Budget
from tenfold.text.messages import ChatModel


class Unreadable(UserError):
    """None of an optimizer's replies had what was asked for."""


@dataclass(frozen=True)
class ReflectionProbe:
    """What an optimizer blames, on real errors and on controls.

    Args:
        real, control: causes of its reflections.
        truths: the true cause of the error behind each real reflection; empty where nobody knows it.
        hits: share of these truths that are the commonest control label: the prior's own hit rate.
        prior_bias: 1 - JSD of the two.
        correctness, nmi, nmi_p: against the truths; None without.
        distinct_errors: different errors behind the real ones.
    """

    real: tuple[str, ...]
    control: tuple[str, ...]
    truths: tuple[str, ...]
    hits: float | None
    prior_bias: float
    correctness: float | None
    nmi: float | None
    nmi_p: float | None
    distinct_errors: int

    def to_json(self) -> dict[str, Any]:
        """Figures alone, with the counts of causes."""
        figures = {name: value for name, value in vars(self).items() if name not in ("real", "control", "truths")}
        return {**figures, "n": len(self.real), "n_control": len(self.control), "real": dict(Counter(self.real)), "control": dict(Counter(self.control))}  # fmt: skip


async def probe_reflections(
    task: Task,
    target: ChatModel,
    optimizer: ChatModel,
    prompt: str = "",
    *,
    n: int = 100,
    seed: int = 0,
    budget: Budget | None = None,
    folder: Path | None = None,
    **writing: Any,
) -> ReflectionProbe:
    """Let an optimizer reflect on single real errors of a prompt, and on controls in three equal parts: right answers shown
    as errors, the same errors with their targets shuffled, and no example at all.

    Args:
        task: errors are of its training split.
        target, optimizer: the models.
        prompt: whose errors.
        n: reflections of either kind.
        seed: of all draws.
        budget, folder: as of a search.
        writing: optimizer_tokens, optimizer_temperature, as of a `Session`.
    Raises:
        UserError: the prompt makes no error on the training split.
        Unreadable: no reflection has the tags.
    """
    need("n", n, 1)
    session = Session(task, target, optimizer, budget=budget, seed=seed, folder=folder, **writing)
    search = PromptOptimizer(target, optimizer, seed=seed)
    search.session = session
    found = await session.outcomes([(prompt, example) for example in task.train], "train")
    pairs = list(zip(task.train, found, strict=True))
    wrong = [Mistake(e, o.text, o.feedback) for e, o in pairs if o.value < 1]
    right = [Mistake(e, o.text, o.feedback) for e, o in pairs if o.value == 1]
    if not wrong:
        raise UserError(
            f"prompt: makes no error on the {len(task.train)} training examples, so there is nothing to reflect on"
        )
    drawn = [search.draw("probe", i).choice(wrong) for i in range(n)]
    moved = _shuffled_targets(wrong, seed)
    controls: list[list[Mistake]] = []
    for i in range(n):
        draw = search.draw("control", i)
        kinds = [[draw.choice(right)] if right else [], [draw.choice(moved)], []]
        controls.append(kinds[i % 3])
    real = await _labels(search, session, task, prompt, [[mistake] for mistake in drawn], "real")
    control = await _labels(search, session, task, prompt, controls, "control")
    kept = [(label, mistake) for label, mistake in zip(real, drawn, strict=True) if label is not None]
    labels, control_labels = tuple(label for label, _ in kept), tuple(label for label in control if label is not None)
    if not labels or not control_labels:
        raise Unreadable(
            "optimizer: none of its reflections could be read; it must put them between <reason> and </reason>"
        )
    true = session.true_causes()
    truths = tuple(true(prompt, mistake.example.id) for _, mistake in kept) if true else ()
    value, p = nmi_test(labels, truths, seed=seed) if truths else (None, None)
    usual = Counter(control_labels).most_common(1)[0][0]
    return ReflectionProbe(
        labels,
        control_labels,
        truths,
        truths.count(usual) / len(truths) if truths else None,
        prior_bias(labels, control_labels),
        reflection_correctness(labels, [{t} for t in truths]) if truths else None,
        value,
        p,
        len({mistake.example.id for _, mistake in kept}),
    )


def _shuffled_targets(wrong: Sequence[Mistake], seed: int) -> list[Mistake]:
    """The same errors, each with another's target."""
    targets = shuffled([mistake.example.target for mistake in wrong], seed)
    return [replace(m, example=replace(m.example, target=target)) for m, target in zip(wrong, targets, strict=True)]


async def _labels(
    search: PromptOptimizer, session: Session, task: Task, prompt: str, batches: Sequence[Sequence[Mistake]], what: str
) -> list[str | None]:
    asks = [Ask("reflect", roles.reflect(prompt, batch), search.key(what, i)) for i, batch in enumerate(batches)]
    replies = await session.ask(asks)
    spans = [parse_tags(reply or "", "reason") for reply in replies]
    return [cause_of(span[0], task.causes) if span else None for span in spans]


async def probe_repeats(
    task: Task,
    target: ChatModel,
    prompt: str,
    *,
    repeats: int = 3,
    limit: int = 20,
    budget: Budget | None = None,
) -> dict[str, Any]:
    """How far the same prompt on the same val examples scores differently when it is asked again; no reply is stored.

    At temperature 0 a real endpoint's replies may change from call to call, and no paired test sees that.

    Args:
        task: val is used.
        target: the model.
        prompt: asked `repeats` times, at least 2.
        limit: the first so many val examples.
        budget: caps on all repeats together.
    Returns:
        "std": of the mean score over repeats; "changed": share of examples whose score is not the same each time;
        "worded": share whose reply is not; "repeats", "n".
    """
    need("repeats", repeats, 2)
    need("limit", limit, 1)
    guarded = (budget or Budget()).wrap(target)
    found = [await evaluate_async([prompt], task, "val", guarded, limit=limit) for _ in range(repeats)]
    scores = np.array([matrix.scores[0] for matrix in found])
    texts = zip(*(matrix.predictions[0] for matrix in found), strict=True)
    same = np.all((scores == scores[0]) | (np.isnan(scores) & np.isnan(scores[0])), axis=0)
    return {
        "std": float(np.std([float(np.nanmean(row)) for row in scores], ddof=1)),
        "changed": float(1 - same.mean()),
        "worded": float(np.mean([len(set(each)) > 1 for each in texts])),
        "repeats": repeats,
        "n": scores.shape[1],
    }


async def probe_paraphrases(
    task: Task,
    target: ChatModel,
    optimizer: ChatModel,
    prompt: str,
    *,
    m: int = 8,
    gain: float | None = None,
    seed: int = 0,
    budget: Budget | None = None,
    folder: Path | None = None,
    **writing: Any,
) -> dict[str, Any]:
    """How much val moves over m paraphrases of a prompt, the prompt itself among them.

    Args:
        task: val is used.
        target, optimizer: the models; the optimizer paraphrases.
        prompt: with words.
        m: prompts of the same meaning, at least 2.
        gain: of an optimized prompt on val, to hold against the spread.
        seed, budget, folder: as of a search.
        writing: optimizer_tokens, optimizer_temperature, as of a `Session`.
    Returns:
        see `diagnostics.paraphrase_sensitivity`; also "prompts" and "scores".
    Raises:
        UserError: an empty prompt.
        Unreadable: no paraphrase can be read, or all are the prompt itself.
    """
    need("m", m, 2)
    if not prompt.strip():
        raise UserError("prompt: has no words to paraphrase; give one that has")
    search = PromptOptimizer(target, optimizer, seed=seed)
    session = search.session = Session(task, target, optimizer, budget=budget, seed=seed, folder=folder, **writing)
    state = State(candidates=[Candidate(0, prompt, "init", 0)])
    texts = [prompt]
    for attempt in range(3):
        if len(texts) >= m:
            break
        state.step = attempt
        made: list[Proposal] = await paraphrases(search, state, [0], 2 * (m - len(texts)))
        texts = list(dict.fromkeys([*texts, *(p.text for p in made if p.dropped is None and p.text.strip())]))[:m]
    if len(texts) < 2:
        raise Unreadable("optimizer: gave no paraphrase; it must put them between <prompt> and </prompt>")
    tried = [Candidate(i, text, "paraphrase", 0) for i, text in enumerate(texts)]
    await session.score(tried, task.val, "val")
    scores = [float(c.scores["val"]["mean"]) for c in tried]
    return {**paraphrase_sensitivity(scores, gain), "prompts": texts, "scores": scores}
