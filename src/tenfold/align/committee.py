"""iTeC, the iterative teaching committee: models of several algorithms answer together, and teach the next ones.

Source: Gunter et al. 2024, arXiv 2407.21075, iTeC and committee distillation.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tenfold.align.judge import Comparison, Judge, level_of
from tenfold.align.preference_data import Preference
from tenfold.align.rejection import best_of
from tenfold.align.rollout import Response, respond
from tenfold.align.samples import Sample
from tenfold.align.verifiers import Scorer, Task
from tenfold.core.atomic import checked_name
from tenfold.lm.decoder import Decoder
from tenfold.text.messages import SAMPLING, ChatModel, Sampling
from tenfold.text.tokenizer import Tokenizer

Model = Decoder | ChatModel


@dataclass(frozen=True, eq=False)
class Member:
    """A model of the committee.

    Args:
        name: its own.
        algorithm: that made it: "sft", "rs", "dpo", ….
        round: in which it was made; 0 before the first.
        model: the model.
        score: of the evaluation, higher is better.
    """

    name: str
    algorithm: str
    round: int
    model: Model
    score: float


@dataclass(frozen=True)
class Answers:
    """What the members said to each task.

    Attributes:
        tasks: the prompts.
        responses: of each task, k of every member, in the order of the members.
        members: of each of those responses, the name of its member.
    """

    tasks: Sequence[Task]
    responses: list[list[Response]]
    members: list[str]

    def only(self, member: str) -> Answers:
        """What one member said."""
        own = [place for place, name in enumerate(self.members) if name == member]
        return Answers(self.tasks, [[group[place] for place in own] for group in self.responses], [member] * len(own))


@dataclass(frozen=True)
class Distilled:
    """The best responses of a committee.

    Attributes:
        samples: one a task that had a finished response, to learn from.
        teachers: of each sample, the member it is of.
        scores: of each sample.
    """

    samples: list[Sample]
    teachers: list[str]
    scores: list[float]


@dataclass(frozen=True)
class RoundData:
    """What the algorithms of a round learn from: its answers, preferences, newest scorer and distilled samples."""

    round: int
    answers: Answers
    preferences: list[Preference]
    scorer: Scorer
    distilled: Distilled


@dataclass(frozen=True)
class Round:
    """A round: its data, the models it made, and the committee of the next."""

    data: RoundData
    trained: list[Member]
    committee: list[Member]


def ask_committee(
    members: Sequence[Member],
    tokenizer: Tokenizer,
    tasks: Sequence[Task],
    k: int,
    sampling: Sampling = SAMPLING,
    *,
    keep: Path | None = None,
) -> Answers:
    """k responses of every member to every task.

    Args:
        members: at least one, each with a name of its own.
        tokenizer: of all of them.
        tasks: the prompts.
        k: responses a member.
        sampling: how they are drawn; a seed and the member's name make its own, or members of equal weights would say the same.
        keep: folder that takes every finished draw, a file a member; the same call after a kill repeats none of them.
    """
    names = [member.name for member in members]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"members: got {names}, need different names, at least one")
    prompts = [task.messages for task in tasks]
    said = [
        respond(
            member.model,
            tokenizer,
            prompts,
            k,
            _own(sampling, member.name),
            keep=keep and keep / f"{checked_name(member.name)}.jsonl",
        )
        for member in members
    ]
    responses = [[response for group in by_member for response in group] for by_member in zip(*said, strict=True)]
    return Answers(tasks, responses, [name for name in names for _ in range(k)])


def _own(sampling: Sampling, name: str) -> Sampling:
    if sampling.seed is None:
        return sampling
    return replace(sampling, seed=random.Random(f"{sampling.seed}/{name}").getrandbits(31))


def distil(answers: Answers, scorer: Scorer, *, teacher: str | None = None) -> Distilled:
    """Committee distillation: for each prompt the best response of all members.

    Args:
        answers: of the committee.
        scorer: the newest reward model, or a verifier.
        teacher: only this member's responses count: what one teacher for all prompts would give.
    """
    if teacher is not None and teacher not in answers.members:
        raise ValueError(f"teacher: got {teacher!r}, need one of {', '.join(dict.fromkeys(answers.members))}")
    scores = scorer(answers.tasks, answers.responses)
    samples, teachers, best = [], [], []
    for group, given in zip(answers.responses, scores, strict=True):
        kept = [
            (score, response, name)
            for score, response, name in zip(given, group, answers.members, strict=True)
            if response.finished and teacher in (None, name)
        ]
        if kept:
            score, response, name = kept[best_of([score for score, _, _ in kept])]
            samples.append(response.sample)
            teachers.append(name)
            best.append(score)
    return Distilled(samples, teachers, best)


def committee_preferences(answers: Answers, judge: Judge, *, pairs: int = 1, seed: int = 0) -> list[Preference]:
    """Preferences between responses of the committee; draws give none.

    Args:
        answers: of the committee.
        judge: compares two responses.
        pairs: compared for each task, drawn at random among those with different texts.
        seed: of the draw; task i depends on (seed, i) alone.
    """
    comparisons = []
    for index, (task, group) in enumerate(zip(answers.tasks, answers.responses, strict=True)):
        distinct = list({response.text: response for response in group}.values())
        possible = [(a, b) for i, a in enumerate(distinct) for b in distinct[i + 1 :]]
        drawn = random.Random(f"{seed}/{index}").sample(possible, min(pairs, len(possible)))
        comparisons += [Comparison(task, first, second) for first, second in drawn]
    found = []
    for each, verdict in zip(comparisons, judge(comparisons) if comparisons else [], strict=True):
        if verdict:
            better, worse = (each.first, each.second) if verdict > 0 else (each.second, each.first)
            found.append(Preference(each.task.messages, better.text, worse.text, level_of(verdict)))
    return found


def itec_round(
    number: int,
    committee: Sequence[Member],
    tasks: Sequence[Task],
    tokenizer: Tokenizer,
    *,
    judge: Judge,
    refresh: Callable[[list[Preference]], Scorer],
    algorithms: Mapping[str, Callable[[RoundData], Model]],
    evaluate: Callable[[str, Model], float],
    k: int = 4,
    pairs: int = 1,
    keep: int = 1,
    sampling: Sampling = SAMPLING,
    seed: int = 0,
    folder: Path | None = None,
) -> Round:
    """One round: the committee answers, is judged, and every algorithm trains a new model on what came out.

    Args:
        number: of the round, from 1.
        committee: the members so far.
        tasks: prompts of this round.
        tokenizer: of all models.
        judge: of the preferences.
        refresh: trains the reward model on (also) these preferences.
        algorithms: name to training.
        evaluate: (member's name, its model) to a score on held-out tasks, higher is better.
        k: responses a member and task.
        pairs: compared a task.
        keep: earlier members, the best ones, that stay beside the newest of every algorithm.
        sampling, seed: of responses and of compared pairs.
        folder: takes every finished draw (see `ask_committee`).
    """
    answers = ask_committee(committee, tokenizer, tasks, k, sampling, keep=folder)
    preferences = committee_preferences(answers, judge, pairs=pairs, seed=seed)
    scorer = refresh(preferences)
    data = RoundData(number, answers, preferences, scorer, distil(answers, scorer))
    trained = []
    for algorithm, train in algorithms.items():
        name, model = f"{algorithm}-{number}", train(data)
        trained.append(Member(name, algorithm, number, model, evaluate(name, model)))
    return Round(data, trained, next_committee(committee, trained, keep))


def next_committee(earlier: Sequence[Member], trained: Sequence[Member], keep: int = 1) -> list[Member]:
    """The newest model of every algorithm, and the `keep` best of the others."""
    newest = {member.algorithm: member for member in sorted([*earlier, *trained], key=lambda member: member.round)}
    others = [member for member in [*earlier, *trained] if member not in newest.values()]
    best = sorted(others, key=lambda member: -member.score)[:keep]
    return [*newest.values(), *best]
