"""Which of many prompts are best, for how many trials: brute force, UCB, successive halving, successive rejects.

A selector is a generator of pulls: it yields which arms to try on which examples, is sent their scores, and returns an order.
So the same code serves language models and simulated bandits.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

import numpy as np

EPSILON = 1e-3  # in the count of an arm that was not tried yet, as in the published code


@dataclass(frozen=True)
class Pull:
    """Try every one of these arms on every one of these examples."""

    arms: tuple[int, ...]
    examples: tuple[int, ...]


@dataclass(frozen=True)
class Selection:
    """Arms from best to worst, with the mean score and the number of trials of each, by arm."""

    order: tuple[int, ...]
    means: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def spent(self) -> int:
        return sum(self.counts)


Pulls = Generator[Pull, np.ndarray, Selection]  # is sent scores [arm, example], NaN where there is none


class Selector(Protocol):
    """A rule; `budget` is the number of trials it may spend."""

    @property
    def budget(self) -> int: ...

    def pulls(self, arms: int, examples: int, keep: int, draw: random.Random) -> Pulls:
        """Trials of `arms` arms on up to `examples` examples to find the best `keep`."""
        ...


class _Arms:
    """What is known of each arm."""

    def __init__(self, arms: int) -> None:
        self.sums, self.counts, self.tried = np.zeros(arms), np.zeros(arms), np.zeros(arms, dtype=int)

    def add(self, pull: Pull, scores: np.ndarray) -> None:
        for arm, row in zip(pull.arms, np.asarray(scores, dtype=float), strict=True):
            known = row[~np.isnan(row)]
            self.sums[arm] += known.sum()
            self.counts[arm] += len(known)
            self.tried[arm] += len(row)

    @property
    def means(self) -> np.ndarray:
        return np.divide(self.sums, self.counts, out=np.zeros_like(self.sums), where=self.counts > 0)

    def selection(self, order: Sequence[int]) -> Selection:
        return Selection(tuple(map(int, order)), tuple(map(float, self.means)), tuple(map(int, self.tried)))

    def by_mean(self, arms: Sequence[int]) -> list[int]:
        """Best first; ties go to the earlier arm."""
        means = self.means
        return sorted(arms, key=lambda arm: (-means[arm], arm))


def _check(budget: int, arms: int, examples: int, keep: int) -> None:
    if budget < 1 or arms < 1 or examples < 1 or keep < 1:
        raise ValueError(
            f"budget, arms, examples, keep: got {budget}, {arms}, {examples}, {keep}, need at least 1 of each"
        )
    if budget < arms:
        raise ValueError(f"budget: got {budget} trials for {arms} arms, need one for each at least")


@dataclass(frozen=True)
class BruteForce:
    """All arms on the same `min(examples, budget // arms)` examples, always the first ones: a parent's score never moves.

    Source: ProTeGi's default.
    """

    budget: int = 2048

    def pulls(self, arms: int, examples: int, keep: int, draw: random.Random) -> Pulls:
        _check(self.budget, arms, examples, keep)
        known = _Arms(arms)
        pull = Pull(tuple(range(arms)), tuple(range(min(examples, self.budget // arms))))
        known.add(pull, (yield pull))
        return known.selection(known.by_mean(range(arms)))


def ucb_scores(
    means: np.ndarray, counts: np.ndarray, t: int, c: float, rule: Literal["ucb", "ucb-e"] = "ucb"
) -> np.ndarray:
    """Upper confidence bounds `Q_i + c sqrt(ln t / (N_i + 1e-3))`, or `Q_i + c sqrt(c / (N_i + 1e-3))` for UCB-E.

    Args:
        means, counts: of each arm; counts are in examples.
        t: round, from 1.
        c: weight of the bound.
    Source: ProTeGi (Pryzant et al. 2023, arXiv 2305.03495) and its code.
    """
    inside = math.log(t) if rule == "ucb" else c
    bounds: np.ndarray = means + c * np.sqrt(inside / (counts + EPSILON))
    return bounds


@dataclass(frozen=True)
class UCB:
    """Rounds in which the arms of highest bound are tried on shared random examples; the first round is of random arms.

    In the published code the second round has t = 1, so its bounds are the means alone and it tries the first round's arms
    again; here t is the round's number, from 1 for the first.

    Args:
        budget: trials; `rounds * arms_per_round * examples_per_round` at most.
        rounds, arms_per_round, examples_per_round: of the schedule; cut where the budget or the arms are fewer.
        c: weight of the bound.
        rule: "ucb" or "ucb-e".
    """

    budget: int = 2048
    rounds: int = 8
    arms_per_round: int = 8
    examples_per_round: int = 32
    c: float = 1.0
    rule: Literal["ucb", "ucb-e"] = "ucb"

    def pulls(self, arms: int, examples: int, keep: int, draw: random.Random) -> Pulls:
        _check(self.budget, 1, examples, keep)
        known, left = _Arms(arms), self.budget
        for t in range(1, self.rounds + 1):
            width = min(self.arms_per_round, arms)
            count = min(self.examples_per_round, examples, left // width)
            if count < 1:
                break
            if t == 1:
                chosen = draw.sample(range(arms), width)
            else:
                bounds = ucb_scores(known.means, known.tried, t, self.c, self.rule)
                chosen = sorted(range(arms), key=lambda arm: (-bounds[arm], arm))[:width]
            pull = Pull(tuple(chosen), tuple(draw.sample(range(examples), count)))
            known.add(pull, (yield pull))
            left -= width * count
        tried = [arm for arm in range(arms) if known.tried[arm]]
        return known.selection([*known.by_mean(tried), *(arm for arm in range(arms) if not known.tried[arm])])


@dataclass(frozen=True)
class SuccessiveHalving:
    """`ceil(log2 arms)` rounds of equal cost; after each the worse half goes. Trials of an arm add up.

    Args:
        budget: trials.
        sh_rule: "half" (the textbook's), or "mean": arms at or above the mean stay, as in ProTeGi's code.
    Source: Karnin et al. 2013.
    """

    budget: int = 2048
    sh_rule: Literal["half", "mean"] = "half"

    def pulls(self, arms: int, examples: int, keep: int, draw: random.Random) -> Pulls:
        _check(self.budget, arms, examples, keep)
        known, alive = _Arms(arms), list(range(arms))
        order = draw.sample(range(examples), examples)
        done, rounds, left = 0, max(1, math.ceil(math.log2(arms))), self.budget
        for number in range(rounds):
            wanted = halving_trials(self.budget, len(alive), arms)
            count = min(wanted, left // len(alive), examples - done)
            if count >= 1:
                pull = Pull(tuple(alive), tuple(order[done : done + count]))
                known.add(pull, (yield pull))
                done, left = done + count, left - count * len(alive)
            ranked = known.by_mean(alive)
            if len(alive) <= keep or number == rounds - 1:
                break
            stay = max(keep, math.ceil(len(alive) / 2))
            if self.sh_rule == "mean":
                middle = float(np.mean(known.means[alive]))
                stay = max(keep, sum(known.means[arm] >= middle for arm in alive))
            alive = ranked[:stay]
        # By the mean of all trials: an arm that went early may yet be better than one that stayed and fell behind.
        return known.selection(known.by_mean(range(arms)))


def halving_trials(budget: int, alive: int, arms: int) -> int:
    """Trials of each arm in a round, `floor(B / (|S| ceil(log2 n)))`."""
    return budget // (alive * max(1, math.ceil(math.log2(arms))))


@dataclass(frozen=True)
class SuccessiveRejects:
    """Phases of growing length, after each the worst arm goes, until `keep` are left; phased so that the budget is never passed.

    The published code tries each arm of a phase at least four times and spends up to three times its budget.

    Source: Audibert et al. 2010; ProTeGi's schedule is `rejects_official`.
    """

    budget: int = 2048

    def pulls(self, arms: int, examples: int, keep: int, draw: random.Random) -> Pulls:
        _check(self.budget, arms, examples, keep)
        known, alive = _Arms(arms), list(range(arms))
        out: list[int] = []
        order = draw.sample(range(examples), examples)
        done = 0
        for target in rejects_schedule(arms, min(keep, arms), self.budget):
            count = min(target, examples) - done
            if count >= 1:
                pull = Pull(tuple(alive), tuple(order[done : done + count]))
                known.add(pull, (yield pull))
                done += count
            if len(alive) > keep:
                ranked = known.by_mean(alive)
                alive, out = ranked[:-1], [ranked[-1], *out]
        return known.selection([*known.by_mean(alive), *out])


def rejects_schedule(arms: int, keep: int, budget: int) -> list[int]:
    """Trials of each arm that is alive by the end of each phase, n_1 <= n_2 <= …; all phases together spend at most `budget`.

    With P arms and m = max(1, P - keep) phases n_k = floor(c / (P + 1 - k)), c = B / (1 + sum_{k=2..m} 1 / (P + 2 - k)):
    for keep = 1 the schedule of Audibert et al. without its rounding up.
    """
    phases = max(1, arms - keep)
    log = 1.0 + sum(1.0 / (arms + 2 - k) for k in range(2, phases + 1))
    return [int(budget / (log * (arms + 1 - k)) + 1e-9) for k in range(1, phases + 1)]


def rejects_official(arms: int, beam: int, budget: int) -> list[int]:
    """Examples of each phase in ProTeGi's code: `max(4, int(n_k - n_{k-1}))`, n_k = (B - K) / (logbar (K + 1 - k)), K = arms - beam."""
    rounds = arms - beam
    log = 0.5 + sum(1.0 / i for i in range(2, rounds + 1))
    ends = [0.0] + [(budget - rounds) / (log * (rounds + 1 - k)) for k in range(1, rounds + 1)]
    return [max(4, int(after - before)) for before, after in pairwise(ends)]


def select(
    selector: Selector, arms: int, examples: int, keep: int, score: Callable[[Pull], np.ndarray], seed: int | str = 0
) -> Selection:
    """Run a selector on a function of pulls, such as a simulated bandit."""
    pulls = selector.pulls(arms, examples, keep, random.Random(f"select {seed}"))
    try:
        pull = next(pulls)
        while True:
            pull = pulls.send(score(pull))
    except StopIteration as end:
        selection: Selection = end.value
        return selection
