"""Alignment of a model of the user's: fine-tuning, reward model, preferences, reinforcement, committee."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import tyro

from tenfold.align.committee import Answers, committee_preferences
from tenfold.align.judge import judge_by, reward_scorer
from tenfold.align.logprobs import logprobs_of
from tenfold.align.preference_data import Pair, Preference, encode_preferences, with_references
from tenfold.align.reward_calibration import RewardReport
from tenfold.align.samples import Sample
from tenfold.align.verifiers import Scorer, Task, verify
from tenfold.core.errors import UserError
from tenfold.core.mesh import device_type
from tenfold.core.run import Run
from tenfold.lm.decoder import Decoder
from tenfold.recipes.afm import material, tuning
from tenfold.recipes.afm.chain import save_model
from tenfold.recipes.afm.opening import MODEL, open_dense, place_of
from tenfold.recipes.afm.post_config import DPO, MDLOO, SFT, ITeC, Reward, Safety, Sampled, Toy, Tuning
from tenfold.recipes.afm.printing import print_rows
from tenfold.recipes.afm.safety_set import NOTE, SafetySet, counts, pooled
from tenfold.recipes.afm.teaching import itec_rounds
from tenfold.recipes.afm.verb_run import ANEW, Flat, Goes, asked_of, working_in
from tenfold.text.tokenizer import Tokenizer

SHOWN = 12  # answers in a report
MEASURED = Sampled()


@dataclass(frozen=True)
class SFTJob(SFT):
    """What `sft` is asked.

    Args:
        model: a folder such as RUN/models/NAME, the run of a verb, or a name that `tenfold models list` shows.
        data: JSON lines of conversations with the columns of OpenAI or trl (messages; prompt and completion); "toy" for
            made-up instructions, "gsm8k" for arithmetic problems, "extract" and "summarize" for orders and messages.
        toy: the made-up ones.
        safety: requests to refuse and look-alikes to answer beside them, and before and after how many are violated.
        seed: of order, dropout and split.
    """

    model: Annotated[str, tyro.conf.Positional] = ""
    data: str = material.TOY
    toy: Toy = field(default_factory=Toy)
    safety: Safety = field(default_factory=Safety)
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.safety.share:
            raise ValueError("safety.share: sft judges no answers, need 0")


def sft(job: Annotated[SFTJob, Flat] = SFTJob(), going: Goes = ANEW) -> None:
    """Fine-tune a model on conversations: supervised, on what the assistant says."""
    job, run = asked_of("sft", job, going)
    model, tokenizer = _opened("sft", job.model, job)
    learned, held_out = material.fine_tuning_rows(job.data, job.toy, tokenizer, job.length, job.seed)
    tasks = held_out_tasks(job.data, job.toy, job.seed)
    safety = SafetySet.of(job.safety, job.seed)
    learned += safety.samples(tokenizer, job.length)
    with working_in("sft", job, run, going, "afm sft: a model that follows instructions") as run:

        def measure() -> dict[str, float]:
            return loss_and_accuracy(model, tokenizer, held_out, tasks, job.toy)

        def asked() -> dict[str, list[int]]:
            return counts(safety.measure(model, tokenizer)) if job.safety.held_out else {}

        before, unsafe = tuning.once(run, "before", measure), tuning.once(run, "safety-before", asked)
        tuning.fine_tune(job, run, "sft", model, learned, job.seed)
        after, safer = tuning.once(run, "after", measure), tuning.once(run, "safety-after", asked)
        show_learning(run, "sft", {"ce": "loss, nats a learned token"})
        compare(run, before, after, len(learned), "rows learned from")
        if job.safety.held_out:
            lines = [{"model": "before", **pooled([unsafe])}, {"model": "after", **pooled([safer])}]
            run.table("safety", lines, note=NOTE)
            print_rows("safety", lines)
        _finish(run, model, tokenizer, tasks)


@dataclass(frozen=True)
class RewardJob(Reward):
    """What `reward` is asked.

    Args:
        model: the language model it starts from, as for `sft`.
        data: JSON lines of preferences with the columns of trl or OpenAI (prompt, chosen, rejected; level and grades where
            known); "reviews" for graded sentences, "solutions" for arithmetic problems.
        seed: of heads, order and split.
    """

    model: Annotated[str, tyro.conf.Positional] = ""
    data: str = material.REVIEWS
    seed: int = 0


def reward(job: Annotated[RewardJob, Flat] = RewardJob(), going: Goes = ANEW) -> None:
    """Train a reward model on preferences: soft labels by level, four grades where they are known."""
    job, run = asked_of("reward", job, going)
    backbone, tokenizer = _opened("reward", job.model, job)
    learned, held_out = (
        material.pairs_of(part, tokenizer, job.length) for part in material.find_preferences(job.data, job.seed)
    )
    with working_in("reward", job, run, going, "afm reward: which of two answers is better") as run:
        from tenfold.recipes.afm import post_figures  # matplotlib takes a second to import

        model = tuning.train_reward(job, run, "reward", backbone, learned, job.seed)
        report = material.judged(model, held_out)
        run.text("summary", f"{len(learned)} pairs learned from; of {len(held_out)} held out {_reported(report)}.")
        fields = {"rank": "ranking loss, nats", "accuracy": "pairs of the batch right"}
        show_learning(run, "reward", fields)
        run.figure("calibration", post_figures.calibration_figure(report))
        run.table("by level", _level_rows(report))
        model.save_pretrained(run.path / MODEL)
        tokenizer.save(run.path / MODEL)
    print(f"{run.path / MODEL}: {_reported(report)}")


@dataclass(frozen=True)
class DPOJob(DPO):
    """What `dpo` is asked.

    Args:
        model: as for `sft`; it is its own reference.
        data: JSON lines of preferences (prompt, chosen, rejected), or of tasks (prompt, answer), on which the model's own
            answers are judged; "toy", "gsm8k", "reviews", "solutions".
        reward: a model of `afm reward` that judges answers; none: the tasks' own check.
        toy: the made-up ones.
        seed: of answers and order.
        answers: how the model's own answers are drawn.
    """

    model: Annotated[str, tyro.conf.Positional] = ""
    data: str = material.TOY
    reward: str | None = None
    toy: Toy = field(default_factory=Toy)
    seed: int = 0
    answers: Sampled = field(default_factory=Sampled)


def dpo(job: Annotated[DPOJob, Flat] = DPOJob(), going: Goes = ANEW) -> None:
    """Tune a model on preferences, without a reward model in between (DPO or IPO)."""
    job, run = asked_of("dpo", job, going)
    model, tokenizer = _opened("dpo", job.model, job)
    named = job.data in (material.REVIEWS, material.SOLUTIONS)
    if named or material.is_preference_file(job.data):
        learned, held_out = material.find_preferences(job.data, job.seed)
        tasks = material.Tasks([], [])
    else:
        tasks = material.find_tasks(job.data, job.toy, job.prompts, job.seed)
        learned, held_out = [], []
    scorer = _scorer(job.reward, tasks.learned)
    with working_in("dpo", job, run, going, f"afm dpo: a model tuned on preferences ({job.objective})") as run:
        if tasks.learned:
            chosen = tasks.learned[: job.prompts]
            learned = own_preferences(job, run, "answers", model, tokenizer, chosen, scorer, job.answers, job.seed)
        pairs = material.pairs_of(learned, tokenizer, job.length)
        others = with_references(encode_preferences(held_out, tokenizer, job.length), model)

        def measure() -> dict[str, float]:
            found = _accuracy(model, tokenizer, tasks.held_out, job.toy, job.answers.max_tokens)
            return _in_order(model, others) | found

        before = tuning.once(run, "before", measure)
        tuning.prefer(job, run, "dpo", model, pairs, job.seed)
        after = tuning.once(run, "after", measure)
        fields = {"loss": "loss", "accuracy": "pairs of the batch in order", "margin": "margin"}
        show_learning(run, "dpo", fields)
        compare(run, before, after, len(pairs), "pairs learned from")
        _finish(run, model, tokenizer, tasks.held_out)


@dataclass(frozen=True)
class MDLOOJob(MDLOO):
    """What `mdloo` is asked.

    Args:
        model: as for `sft`; the policy, and where it stands now is the reference.
        data: JSON lines of tasks (prompt, and answer where it is known); "toy", "gsm8k".
        reward: a model of `afm reward`; none: the tasks' own check.
        toy: the made-up ones.
        seed: of answers and orders.
    """

    model: Annotated[str, tyro.conf.Positional] = ""
    data: str = material.TOY
    reward: str | None = None
    toy: Toy = field(default_factory=Toy)
    seed: int = 0


def mdloo(job: Annotated[MDLOOJob, Flat] = MDLOOJob(), going: Goes = ANEW) -> None:
    """Tune a model on rewards of its own answers: leave-one-out advantages, mirror-descent steps."""
    job, run = asked_of("mdloo", job, going)
    model, tokenizer = _opened("mdloo", job.model, job)
    tasks = material.find_tasks(job.data, job.toy, job.iterations * job.prompts, job.seed)
    scorer = _scorer(job.reward, tasks.learned)
    with working_in("mdloo", job, run, going, "afm mdloo: a model tuned on rewards of its own answers") as run:

        def measure() -> dict[str, float]:
            return _accuracy(model, tokenizer, tasks.held_out, job.toy, job.max_tokens)

        before = tuning.once(run, "before", measure)
        reference = copy.deepcopy(model).requires_grad_(False)
        drawn = material.in_turn(tasks.learned, job.prompts, job.seed)
        tuning.reinforce(job, run, "mdloo", model, reference, tokenizer, drawn, scorer, job.seed)
        after = tuning.once(run, "after", measure)
        fields = {"reward": "mean reward", "reference_kl": "ln π - ln π_ref, nats an answer", "kl": "KL from π_k, nats"}
        show_learning(run, "mdloo", fields, x="iteration")
        compare(run, before, after, job.iterations * job.prompts * job.k, "answers learned from")
        _finish(run, model, tokenizer, tasks.held_out)


@dataclass(frozen=True)
class ITeCJob(ITeC):
    """What `itec` is asked.

    Args:
        model: as for `sft`; the first member.
        data: tasks, as for `mdloo`.
        toy: the made-up ones.
        seed: of everything.
    """

    model: Annotated[str, tyro.conf.Positional] = ""
    data: str = material.TOY
    toy: Toy = field(default_factory=Toy)
    seed: int = 0


def itec(job: Annotated[ITeCJob, Flat] = ITeCJob(), going: Goes = ANEW) -> None:
    """Rounds of a committee: its members answer, their answers are judged, every algorithm trains a new member."""
    job, run = asked_of("itec", job, going)
    model, tokenizer = _opened("itec", job.model, job.rs)
    tasks = material.find_tasks(job.data, job.toy, job.rounds * job.prompts, job.seed)
    _need_answers(tasks.learned, "give all an answer")
    with working_in("itec", job, run, going, "afm itec: a committee that teaches its next members") as run:
        rounds = itec_rounds(job, run, "itec", model, tokenizer, tasks, job.seed, draws=job.toy.draws)
        best = max((member for each in rounds for member in each.members), key=lambda member: member.score)
        run.text("summary", f"The best member is {best.name}: {best.score:.3f} of its answers are right.")
        run.table("rounds", [row for each in rounds for row in each.rows()])
        run.table("committee against its members", [each.against_members() for each in rounds])
        assert isinstance(best.model, Decoder)
        _finish(run, best.model, tokenizer, tasks.held_out)


def own_preferences(
    settings: DPO,
    run: Run,
    name: str,
    model: Decoder,
    tokenizer: Tokenizer,
    tasks: Sequence[Task],
    scorer: Scorer,
    how: Sampled,
    seed: int,
) -> list[Preference]:
    """Preferences between answers of the model itself; finished answers stay in the run.

    Raises:
        UserError: all answers to each task are equally good.
    """
    keep = run.path / "answers" / f"{name}.jsonl"
    said = material.answers_of(model, tokenizer, tasks, settings.k, how, seed, keep)
    answers = Answers(tasks, said, ["self"] * settings.k)
    found = committee_preferences(answers, judge_by(scorer), pairs=settings.pairs, seed=seed)
    if not found:
        raise UserError(
            "answers: of no task are some right and some wrong; take easier or harder tasks, or more answers"
        )
    return found


def _opened(verb: str, model: str, settings: Tuning | MDLOO) -> tuple[Decoder, Tokenizer]:
    """The model, ready to learn; rows no longer than it reads."""
    decoder, tokenizer = open_dense(model, verb)
    length = getattr(settings, "length", 1)
    if length > decoder.cfg.max_len:
        raise UserError(f"--length: got {length}, {model} reads at most {decoder.cfg.max_len} tokens")
    if tokenizer.chat_template is None:
        raise UserError(f"{place_of(model)}: its tokenizer has no chat template")
    return decoder.requires_grad_(True).to(device_type()), tokenizer


def held_out_tasks(data: str, toy: Toy, seed: int) -> list[Task]:
    """Held-out tasks where the data have such; with the seed of `fine_tuning_rows` none of them is learned from."""
    return material.find_tasks(data, toy, 1, seed).held_out if data in material.WITH_CHECKS else []


def _scorer(reward: str | None, tasks: Sequence[Task]) -> Scorer:
    if reward is not None:
        return reward_scorer(tuning.open_reward(place_of(reward)))
    _need_answers(tasks, "give a reward model (--reward)")
    return verify


def _need_answers(tasks: Sequence[Task], otherwise: str) -> None:
    if lacking := sum(task.answer is None for task in tasks):
        raise UserError(f"data: {lacking} of {len(tasks)} tasks have no answer to check; {otherwise}")


def loss_and_accuracy(
    model: Decoder,
    tokenizer: Tokenizer,
    held_out: Sequence[Sample],
    tasks: Sequence[Task],
    toy: Toy,
    max_tokens: int = MEASURED.max_tokens,
) -> dict[str, float]:
    """Loss on held-out rows and, where there are tasks, the share of them answered right."""
    loss = {"loss, nats a learned token": material.mean_loss(model, held_out)}
    return loss | _accuracy(model, tokenizer, tasks, toy, max_tokens)


def _accuracy(
    model: Decoder, tokenizer: Tokenizer, tasks: Sequence[Task], toy: Toy, max_tokens: int
) -> dict[str, float]:
    how = replace(MEASURED, max_tokens=max_tokens)
    return material.accuracy(model, tokenizer, tasks, toy.draws, how, 0) if tasks else {}


def _in_order(model: Decoder, pairs: Sequence[Pair]) -> dict[str, float]:
    """Share of held-out pairs whose chosen response has become likelier against the other; an unchanged model has 1/2."""
    if not pairs:
        return {}
    sums = logprobs_of(model, [sample for pair in pairs for sample in (pair.chosen, pair.rejected)])
    gains = [
        (chosen - pair.references[0]) - (rejected - pair.references[1])
        for pair, chosen, rejected in zip(pairs, sums[::2], sums[1::2], strict=True)
        if pair.references is not None
    ]
    return {"held-out pairs in order": sum(0.5 if abs(gain) < 1e-4 else float(gain > 0) for gain in gains) / len(gains)}


def show_learning(run: Run, name: str, fields: Mapping[str, str], x: str = "step", title: str = "learning") -> None:
    """A figure of a training; arguments as in `post_figures.curve_figure`."""
    from tenfold.recipes.afm import post_figures  # matplotlib takes a second to import

    run.figure(title, post_figures.curve_figure(run, name, fields, x))


def compare(run: Run, before: dict[str, float], after: dict[str, float], count: int, unit: str) -> None:
    """Table, figure and summary of before and after."""
    from tenfold.recipes.afm import post_figures

    if not before:
        run.text("summary", f"{count} {unit}; there are no tasks with an answer to measure on.")
        return
    run.table("before and after", [{"figure": key, "before": before[key], "after": after[key]} for key in before])
    words = [f"{key}: {before[key]:.3f} before, {after[key]:.3f} after" for key in before if " of " not in key]
    run.text("summary", f"{count} {unit}. Held out: {'; '.join(words)}.")
    if "accuracy" in before:
        run.figure(
            "accuracy",
            post_figures.kinds_figure({"before": before, "after": after}),
            caption="Answers drawn at temperature 1.",
        )


def _finish(run: Run, model: Decoder, tokenizer: Tokenizer, tasks: Sequence[Task]) -> None:
    """Save the model, show some answers."""
    if tasks:
        run.table(
            "answers", material.examples(model, tokenizer, tasks[:SHOWN], MEASURED), note="The likeliest answers."
        )
    save_model(model, tokenizer, run.path / MODEL)
    print(f"{run.path / MODEL} (talk to it: tenfold afm chat {run.path})")


def _reported(report: RewardReport) -> str:
    share = report.accuracy
    return f"{share.value:.1%} are in order ({share.low:.1%} to {share.high:.1%}), Brier score {report.brier:.3f}"


def _level_rows(report: RewardReport) -> list[dict[str, Any]]:
    rows = {"all": report.accuracy, **report.by_level}
    return [{"level": name, "in order": s.value, "from": s.low, "to": s.high} for name, s in rows.items()]


VERBS = {"sft": sft, "reward": reward, "dpo": dpo, "mdloo": mdloo, "itec": itec}
