"""Rounds of the iterative teaching committee (iTeC), each part of which a killed process does once.

Source: Gunter et al. 2024, arXiv 2407.21075, iTeC and committee distillation.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any, cast

from tenfold.align.committee import Answers, Member, RoundData, ask_committee, itec_round
from tenfold.align.judge import judge_by, reward_scorer
from tenfold.align.preference_data import Preference
from tenfold.align.verifiers import Scorer, Task, verify
from tenfold.core.run import Run
from tenfold.lm.decoder import Decoder
from tenfold.recipes.afm import material, tuning
from tenfold.recipes.afm.post_config import Algorithm, ITeC
from tenfold.text.messages import Sampling
from tenfold.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Taught:
    """What a round came to.

    Attributes:
        number: of the round, from 1.
        members: that answered, and those that it trained.
        picks: on held-out tasks, share of picked answers that are right; every pick is the newest reward model's, or with
            "oracle" the check's own. "committee": of all members' answers to a prompt; "one teacher": of those that are
            the best member's, as if it taught alone; "best member": of as many answers of the best member as all
            members gave. Each is the mean over `draws` such groups of answers.
        preferences: new ones that the reward model learned from.
        samples: prompts whose best answers were learned from.
    """

    number: int
    members: list[Member]
    picks: dict[str, float]
    preferences: int
    samples: int

    def rows(self) -> list[dict[str, Any]]:
        """A line a member."""
        return [
            {"round": self.number, "member": each.name, "made by": each.algorithm, "share right": each.score}
            for each in self.members
        ]

    def against_members(self) -> dict[str, Any]:
        """The round's line in a table."""
        return {"round": self.number, "preferences": self.preferences, "prompts taught": self.samples, **self.picks}


def itec_rounds(
    settings: ITeC,
    run: Run,
    name: str,
    start: Decoder,
    tokenizer: Tokenizer,
    tasks: material.Tasks,
    seed: int,
    *,
    others: Mapping[Algorithm, Decoder] | None = None,
    draws: int = 4,
    bar: bool = True,
) -> list[Taught]:
    """All rounds, from one fine-tuned model on.

    New members go on from the best one so far. Half of the held-out tasks tell which that is, the other half is reported.

    Args:
        settings: of the rounds and the algorithms.
        run: takes answers, checkpoints, and every trained model under models/.
        name: of these rounds in the run.
        start: the first member; reward models go on from it.
        tokenizer: of all.
        tasks: learned ones are shared out over the rounds.
        seed: of everything.
        others: models that the algorithms made of it before, members of the first committee, too.
        draws: answers to a held-out task that a member is scored by, and groups of them that are picked from.
        bar: whether to show progress.
    """
    rounds = _Rounds(settings, run, name, start, tokenizer, tasks, seed, draws, bar)
    committee = [Member("start", "sft", 0, start, rounds.score("start", start))]
    for algorithm, model in (others or {}).items():
        committee.append(Member(f"{algorithm}-0", algorithm, 0, model, rounds.score(f"{algorithm}-0", model)))
    taught = []
    for number in range(1, settings.rounds + 1):
        one, committee = rounds.play(number, committee)
        taught.append(one)
    return taught


@dataclass
class _Rounds:
    settings: ITeC
    run: Run
    name: str
    start: Decoder
    tokenizer: Tokenizer
    tasks: material.Tasks
    seed: int
    draws: int
    bar: bool
    preferences: list[Preference] = field(default_factory=list)  # of all rounds so far

    def play(self, number: int, committee: list[Member]) -> tuple[Taught, list[Member]]:
        """One round, and the committee of the next."""
        settings, first = self.settings, (number - 1) * self.settings.prompts
        prompts = [self.tasks.learned[i % len(self.tasks.learned)] for i in range(first, first + settings.prompts)]
        best = max(committee, key=lambda member: member.score)
        trained: dict[Algorithm, Callable[[RoundData], Decoder]] = {
            "rs": lambda data: self.made("rs", number, lambda job, model: self.distilled(job, model, data), best),
            "dpo": lambda data: self.made("dpo", number, lambda job, model: self.preferred(job, model, data), best),
            "mdloo": lambda data: self.made("mdloo", number, lambda job, model: self.rewarded(job, model, data), best),
        }
        done = itec_round(
            number,
            committee,
            prompts,
            self.tokenizer,
            judge=judge_by(verify),
            refresh=lambda preferences: self.refreshed(number, preferences),
            algorithms={algorithm: trained[algorithm] for algorithm in settings.algorithms},
            evaluate=self.score,
            k=settings.k,
            pairs=settings.pairs,
            keep=settings.keep,
            sampling=self.sampling(number),
            seed=self.seed + number,
            folder=self.run.path / "answers" / f"{self.name}-{number}",
        )
        picks = self.picks(number, committee, done.data.scorer)
        members = [*committee, *done.trained]
        return Taught(
            number, members, picks, len(done.data.preferences), len(done.data.distilled.samples)
        ), done.committee

    def sampling(self, number: int) -> Sampling:
        how = self.settings
        return Sampling(temperature=how.temperature, max_tokens=how.max_tokens, seed=(self.seed << 8) + number)

    def made(self, algorithm: str, number: int, train: Callable[[str, Decoder], object], best: Member) -> Decoder:
        """The model that an algorithm trains from the best member, or trained before."""
        job = f"{self.name}-{algorithm}-{number}"
        folder, start = self.run.path / "models" / job, cast(Decoder, best.model)
        return tuning.made_once(self.run, job, folder, start, self.tokenizer, train)

    def distilled(self, job: str, model: Decoder, data: RoundData) -> None:
        if data.distilled.samples:
            tuning.fine_tune(self.settings.rs, self.run, job, model, data.distilled.samples, self.seed, self.bar)

    def preferred(self, job: str, model: Decoder, data: RoundData) -> None:
        if data.preferences:
            pairs = material.pairs_of(data.preferences, self.tokenizer, self.settings.dpo.length)
            tuning.prefer(self.settings.dpo, self.run, job, model, pairs, self.seed, self.bar)

    def rewarded(self, job: str, model: Decoder, data: RoundData) -> None:
        settings, prompts = self.settings.mdloo, data.answers.tasks
        reference = copy.deepcopy(model).requires_grad_(False)

        def tasks(iteration: int) -> Sequence[Task]:
            first = iteration * settings.prompts
            return [prompts[i % len(prompts)] for i in range(first, first + settings.prompts)]

        tuning.reinforce(
            settings, self.run, job, model, reference, self.tokenizer, tasks, data.scorer, self.seed, self.bar
        )

    def refreshed(self, number: int, preferences: list[Preference]) -> Scorer:
        """The reward model of all preferences so far; without any the checks themselves."""
        settings, job = self.settings.reward, f"{self.name}-reward-{number}"
        self.preferences += preferences
        if not self.preferences:
            return verify
        folder = self.run.path / "models" / job
        if not self.run.done(job):
            pairs = material.pairs_of(self.preferences, self.tokenizer, settings.length)
            model = tuning.train_reward(settings, self.run, job, self.start, pairs, self.seed, self.bar)
            model.save_pretrained(folder)
            self.tokenizer.save(folder)
            self.run.save_stage(job)
        return reward_scorer(tuning.open_reward(folder))

    def score(self, member: str, model: object) -> float:
        """Share of answers to half of the held-out tasks that are right."""
        tasks, start = self.tasks.held_out[::2], cast(Decoder, model)

        def measure() -> float:
            found = material.accuracy(start, self.tokenizer, tasks, self.draws, self.settings, self.seed)
            return found["accuracy"]

        return float(tuning.once(self.run, f"{self.name}-{member}-score", measure))

    def picks(self, number: int, committee: Sequence[Member], scorer: Scorer) -> dict[str, float]:
        """The committee's best-of-N, its best member's own share of that, and its best member's with as many answers."""
        settings, tasks = self.settings, self.tasks.held_out[1::2] or self.tasks.held_out

        def measure() -> dict[str, float]:
            best = max(committee, key=lambda member: member.score)
            shares: dict[str, list[float]] = {}
            for draw in range(self.draws):
                seed = (self.seed << 8) + draw
                sampling = Sampling(temperature=settings.temperature, max_tokens=settings.max_tokens, seed=seed)
                everyone = ask_committee(committee, self.tokenizer, tasks, settings.k, sampling)
                alone = ask_committee([best], self.tokenizer, tasks, settings.k * len(committee), sampling)
                own = everyone.only(best.name)
                for who, answers in (("committee", everyone), ("one teacher", own), ("best member", alone)):
                    shares.setdefault(who, []).append(right_share(answers, scorer))
                    shares.setdefault(f"{who}, oracle", []).append(right_share(answers, verify))
            return {who: mean(found) for who, found in shares.items()}

        kept: dict[str, float] = tuning.once(self.run, f"{self.name}-picks-{number}", measure)
        return kept


def right_share(answers: Answers, scorer: Scorer) -> float:
    """Share of tasks whose best answer by the scorer is right by the check; a task without a finished answer is wrong."""
    checked = verify(answers.tasks, answers.responses)
    scored = scorer(answers.tasks, answers.responses)
    right = 0.0
    for group, given, true in zip(answers.responses, scored, checked, strict=True):
        whole = [(score, check) for response, score, check in zip(group, given, true, strict=True) if response.finished]
        right += max(whole, key=lambda pair: pair[0])[1] if whole else 0.0
    return right / len(answers.tasks)
