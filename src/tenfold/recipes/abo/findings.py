"""From the rows of all parts to tables, claims and sentences."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from tenfold.core.claims import Claim
from tenfold.core.statistics import Interval, paired_bootstrap, paired_t, plus_minus, select, wilson
from tenfold.prompts.report import diagnostic_rows
from tenfold.prompts.result import mcnemar_p
from tenfold.recipes.abo.config import GENERATED, LOCAL, WORDS, Config
from tenfold.recipes.abo.searches import Row

COUNTED = 3  # seeds from which intervals are over seeds
RECOVERED = 0.05  # how far the estimated correctness may lie from 1 - beta (1 - the prior's hit rate)
GAIN = 0.15  # what edits by reflection may gain on the simulator at most, by its construction
PAPER_BEHAVIOUR = "Llama-2-70B-chat, object counting .425 to .885, navigate .890 (of a digest)"
# Figures of the paper as a published digest of it quotes them; None: not at hand.
PUBLISHED: tuple[Row, ...] = (
    {"target": "Llama-2-70B-chat", "task": "object counting", "zero-shot CoT": 0.425, "few-shot CoT": None, "APO, best": 0.455, "ABO step 1": 0.860, "ABO step 2": 0.885, "ABO ablation": 0.385},
    {"target": "Llama-2-70B-chat", "task": "navigate", "zero-shot CoT": None, "few-shot CoT": 0.720, "APO, best": 0.660, "ABO step 1": None, "ABO step 2": 0.890, "ABO ablation": None},
    {"target": "GPT-3.5-Turbo", "task": "object counting", "zero-shot CoT": None, "few-shot CoT": None, "APO, best": None, "ABO step 1": None, "ABO step 2": 0.975, "ABO ablation": None},
    {"target": "GPT-3.5-Turbo", "task": "navigate", "zero-shot CoT": None, "few-shot CoT": None, "APO, best": None, "ABO step 1": None, "ABO step 2": 0.985, "ABO ablation": None},
    {"target": "GPT-3.5-Turbo", "task": "question selection", "zero-shot CoT": None, "few-shot CoT": None, "APO, best": None, "ABO step 1": None, "ABO step 2": 0.905, "ABO ablation": None},
)  # fmt: skip


class Scores:
    """Test scores of every search, item by item."""

    def __init__(self, config: Config, rows: Sequence[Row]) -> None:
        self.config = config
        self.rows = [row for row in rows if row["kind"] == "search"]

    def methods(self, task: str) -> list[str]:
        """The methods that were run on a task."""
        return [method for method in self.config.methods if any(select(self.rows, task=task, method=method))]

    def row(self, task: str, method: str, seed: int) -> Row:
        (row,) = select(self.rows, task=task, method=method, seed=seed)
        found: Row = row
        return found

    def means(self, task: str, method: str) -> list[float]:
        """Of each seed."""
        return [self.row(task, method, seed)["test"] for seed in self.config.seeds]

    def items(self, task: str, method: str) -> tuple[list[float], list[str]]:
        """Scores of all seeds pooled, and the group of each: the same test item in another seed is no new item, unless the
        task is generated anew for each seed."""
        scores: list[float] = []
        groups: list[str] = []
        for seed in self.config.seeds:
            for id, score in self.row(task, method, seed)["scores"].items():
                scores.append(math.nan if score is None else score)
                groups.append(f"{seed} {id}" if task.startswith(GENERATED) else id)
        return scores, groups

    def pooled(self, task: str, method: str) -> Interval:
        """Wilson's interval of all items pooled."""
        scores = [score for score in self.items(task, method)[0] if not math.isnan(score)]
        return wilson(round(sum(scores)), len(scores))

    def difference(self, task: str, method: str, other: str) -> Interval:
        """Paired difference on test: Student's t over seeds where there are three or more, else a bootstrap over items."""
        if len(self.config.seeds) >= COUNTED:
            return paired_t(np.subtract(self.means(task, method), self.means(task, other)))
        (a, groups), (b, _) = self.items(task, method), self.items(task, other)
        kept = [i for i in range(len(a)) if not math.isnan(a[i] + b[i])]
        if len(kept) < 30 or len({groups[i] for i in kept}) < 2:
            mean = statistics.fmean(a[i] - b[i] for i in kept)
            return Interval(mean, math.nan, math.nan)
        return paired_bootstrap([a[i] for i in kept], [b[i] for i in kept], clusters=[groups[i] for i in kept])

    def p_value(self, task: str, method: str, other: str) -> float | None:
        """McNemar's p over all items pooled."""
        return mcnemar_p(*(np.array(self.items(task, each)[0]) for each in (method, other)))


def noise_of(rows: Sequence[Row], task: str) -> float | None:
    """The spread of val over paraphrases of the starting prompt, mean over seeds."""
    found = [
        row["std"] for row in rows if row["kind"] == "paraphrases" and row["task"] == task and "nothing" not in row
    ]
    return statistics.fmean(found) if found else None


def over_items(config: Config) -> str:
    """Heading of the intervals over all items; below three seeds it says that seeds are not counted."""
    return "95 % of all items" + ("" if len(config.seeds) >= COUNTED else ", seeds not counted")


def score_table(config: Config, rows: Sequence[Row]) -> list[Row]:
    """A line a task and method."""
    scores, lines = Scores(config, rows), []
    for task in config.data.tasks:
        noise = noise_of(rows, task)
        start = statistics.fmean(scores.row(task, "given", seed)["val"] for seed in config.seeds)
        for method in scores.methods(task):
            own = [scores.row(task, method, seed) for seed in config.seeds]
            pooled = scores.pooled(task, method)
            gain = statistics.fmean(row["val"] for row in own) - start
            tokens = statistics.fmean(row["prompt_tokens"] for row in own)
            test = statistics.fmean(row["test"] for row in own)
            lines.append(
                {
                    "task": task,
                    "method": method,
                    "test": plus_minus([row["test"] for row in own]),
                    over_items(config): f"{pooled.low:.3f} … {pooled.high:.3f}",
                    "val": plus_minus([row["val"] for row in own]),
                    "val − test": plus_minus([row["val"] - row["test"] for row in own]),
                    "p against given": None if method == "given" else _p(scores.p_value(task, method, "given")),
                    **_against_random(scores, task, method),
                    "within paraphrase noise": None if noise is None or method == "given" else ("yes" if gain < noise else "no"),
                    "target calls": round(statistics.fmean(row["target_calls"] for row in own)),
                    "optimizer calls": round(statistics.fmean(row["optimizer_calls"] for row in own)),
                    "prompt tokens": round(tokens),
                    "test per 1000 prompt tokens": None if tokens < 1 else f"{1000 * test / tokens:.1f}",
                    "unreadable replies": round(statistics.fmean(row["format_errors"] for row in own), 1),
                }
            )  # fmt: skip
    return lines


def _against_random(scores: Scores, task: str, method: str) -> Row:
    """McNemar's p against random search, a column where that was run."""
    if "random" not in scores.methods(task):
        return {}
    apart = method not in ("given", "few-shot-cot", "random")
    return {"p against random": _p(scores.p_value(task, method, "random")) if apart else None}


def _p(value: float | None) -> str | None:
    return None if value is None else f"{value:.3g}"


def token_table(config: Config, rows: Sequence[Row]) -> list[Row]:
    """Equal tokens beside equal calls: how far each method was on val when the leanest search had used up its tokens."""
    scores, lines = Scores(config, rows), []
    for task in config.data.tasks:
        searched = [method for method in scores.methods(task) if method not in ("given", "few-shot-cot")]
        least = {seed: min((row["curve"][-1].get("tokens", 0) for row in (scores.row(task, m, seed) for m in searched)), default=0) for seed in config.seeds}  # fmt: skip
        for method in searched:
            own = [scores.row(task, method, seed) for seed in config.seeds]
            lines.append(
                {
                    "task": task,
                    "method": method,
                    "tokens of the target": round(statistics.fmean(row["target_tokens"] for row in own)),
                    "tokens a call": round(statistics.fmean(row["target_tokens"] / row["target_calls"] for row in own)),
                    "val at equal tokens": plus_minus([_by(row["curve"], least[row["seed"]]) for row in own])
                    if all(least.values())
                    else None,
                    "candidates tried": round(statistics.fmean(row["candidates"] for row in own), 1),
                    "best found by": ", ".join(sorted({row["op"] for row in own})),
                }
            )
    return lines


def _by(curve: Sequence[Row], tokens: int) -> float:
    """The best on val that a search had reached within so many tokens of both models; its start counts in any case."""
    reached = [point["best_val"] for point in curve if point["tokens"] <= tokens and point["best_val"] is not None]
    return float(reached[-1] if reached else curve[0]["best_val"])


def reflection_table(config: Config, rows: Sequence[Row]) -> list[Row]:
    """What the optimizer blames: on errors, on none, and in truth."""
    lines = []
    for task in config.data.tasks:
        probes = [row for row in rows if row["kind"] == "reflections" and row["task"] == task]
        for beta in dict.fromkeys(row["beta"] for row in probes):
            own = [row for row in select(probes, beta=beta) if "nothing" not in row]
            line: Row = {"task": task}
            if not own:
                lines.append({**line, "prior bias": None, "reflections": 0, "blamed on errors": probes[0]["nothing"], "blamed on none": None})  # fmt: skip
                continue
            if beta is not None:
                line |= {"prior's weight β": beta, "correct": plus_minus([row["correctness"] for row in own]), "expected": plus_minus([expected(row) for row in own])}  # fmt: skip
            line |= {"prior bias": plus_minus([row["prior_bias"] for row in own])}
            if beta is not None:
                line |= {"NMI": plus_minus([row["nmi"] for row in own]), "largest p": max(row["nmi_p"] for row in own)}
            line |= {"reflections": sum(row["n"] for row in own), "blamed on errors": _counts(own, "real"), "blamed on none": _counts(own, "control")}  # fmt: skip
            if silent := len(select(probes, beta=beta)) - len(own):
                line["blamed on errors"] += f"; nothing could be read in {silent} of {silent + len(own)}"
            lines.append(line)
    return lines


def expected(row: Row) -> float:
    """Correctness by the simulator's construction: 1 - beta (1 - the prior's own hit rate)."""
    return float(1 - row["beta"] * (1 - prior_hits(row)))


def prior_hits(row: Row) -> float:
    """How often the prior cause is the true one among the probed errors."""
    return float(row["prior_hits"])


def _counts(rows: Sequence[Row], name: str) -> str:
    counts: dict[str, int] = {}
    for row in rows:
        for cause, count in row[name].items():
            counts[cause] = counts.get(cause, 0) + count
    return ", ".join(f"{cause} {count}" for cause, count in sorted(counts.items(), key=lambda pair: -pair[1]))


def diagnosis_table(config: Config, rows: Sequence[Row]) -> list[Row]:
    """The diagnostics of every method's searches, of the first seed."""
    lines: list[Row] = []
    for row in rows:
        if row["kind"] == "search" and row["seed"] == config.seeds[0]:
            for measure, figure, meaning in diagnostic_rows(row["diagnostics"]):
                lines.append({"task": row["task"], "method": row["method"], "measure": measure, "figure": figure, "meaning": meaning})  # fmt: skip
    return lines


def prompt_table(config: Config, rows: Sequence[Row]) -> list[Row]:
    """The prompts that were found, of the first seed."""
    return [
        {
            "task": row["task"],
            "method": row["method"],
            "test": row["test"],
            "prompt": row["prompt"][:1500] or "(no words)",
        }
        for row in rows
        if row["kind"] == "search" and row["seed"] == config.seeds[0] and row["method"] != "few-shot-cot"
    ]


def bandit_table(rows: Sequence[Row]) -> list[Row]:
    """How often each selector finds the best arm."""
    return [{"selector": row["selector"], "best arm first": row["best"], "among three": row["top3"], "trials of arms": row["spent"], "runs": row["trials"]} for row in rows if row["kind"] == "bandit"]  # fmt: skip


def make_claims(config: Config, rows: Sequence[Row], *, self_test: bool = True) -> list[Claim]:
    """Every comparison that was run, paired.

    Args:
        config: what was run.
        rows: of all parts.
        self_test: also whether the diagnoses recover what is built into the simulator.
    """
    scores, claims = Scores(config, rows), []
    sim = config.simulated
    for task in config.data.tasks:
        have = scores.methods(task)
        for method in sorted(have, key=lambda method: method != "abo"):
            if method != "given":
                paper = PAPER_BEHAVIOUR if method == "abo" and task != WORDS else None
                claims.append(_claim(scores, task, method, "given", sim, paper))
        for other in ("apo", "opro", "abo-ablation", "random"):
            if "abo" in have and other in have:
                claims.append(_claim(scores, task, "abo", other, sim, None))
        if (
            "random" in have and task == WORDS
        ):  # looking at examples, errors or scores against drawing the same sentences blindly
            claims += [_claim(scores, task, method, "random", sim, None) for method in ("ape", "apo", "opro") if method in have]  # fmt: skip
    if sim and self_test:
        claims += _probe_claims(config, rows)
    bandits = {row["selector"]: row for row in rows if row["kind"] == "bandit"}
    if bandits:
        base = bandits["brute force"]
        for name, row in bandits.items():
            if name != "brute force":
                interval = paired_bootstrap(row["firsts"], base["firsts"])
                claims.append(Claim(f"{name} finds the best of forty arms more often than brute force", row["best"], base["best"], "higher", interval.ci95, row["trials"], f"share of {row['trials']} simulated bandits, best arm 0.7, others below 0.65, at most 2048 trials of arms, bootstrap over bandits", None, True))  # fmt: skip
    return claims


def _claim(scores: Scores, task: str, method: str, other: str, sim: bool, paper: str | None) -> Claim:
    config = scores.config
    interval = scores.difference(task, method, other)
    seeds = len(config.seeds)
    items = len(next(iter(scores.rows))["scores"])
    over = "t interval over seeds" if seeds >= COUNTED else "bootstrap over test items, seeds are not counted"
    against = "the starting prompt" if other == "given" else other
    ci = (math.nan, math.nan) if seeds == 1 else interval.ci95
    most = "" if config.search.tokens is None else f" and {config.search.tokens} tokens"
    return Claim(
        f"{method} above {against} on {task}",
        statistics.fmean(scores.means(task, method)),
        statistics.fmean(scores.means(task, other)),
        "higher",
        ci,
        seeds,
        f"share right on {items} test items, at most {config.search.calls} calls to the target{most} a run, {over}{', scripted optimizer' if config.scripted else ''}",
        paper,
        sim,
    )


def _probe_claims(config: Config, rows: Sequence[Row]) -> list[Claim]:
    """Do the diagnoses recover what is built into the simulator?"""
    claims = []
    seeds = len(config.seeds)
    for task in config.data.tasks:
        probes = [row for row in rows if row["kind"] == "reflections" and row["task"] == task]
        betas = sorted({row["beta"] for row in probes})
        if len(betas) < 2:
            continue
        worst = [
            max(abs(row["correctness"] - expected(row)) for row in select(probes, seed=seed)) for seed in config.seeds
        ]
        claims.append(_against(f"correctness of reflections is recovered on {task}", worst, [RECOVERED] * seeds, "lower", f"largest distance from 1 - β (1 - hit rate) over β = {', '.join(map(str, betas))}, {config.probes.reflections} reflections each, against {RECOVERED}"))  # fmt: skip
        low, high = ([select(probes, seed=seed, beta=beta)[0]["prior_bias"] for seed in config.seeds] for beta in (betas[0], betas[-1]))  # fmt: skip
        claims.append(_against(f"prior bias tells β = {betas[-1]:g} from β = {betas[0]:g} on {task}", high, low, "higher", "1 - JSD of causes blamed on errors and on controls"))  # fmt: skip
    return claims


def _against(name: str, values: Sequence[float], others: Sequence[float], better: Any, how: str) -> Claim:
    seeds = len(values)
    ci = (math.nan, math.nan) if seeds == 1 else paired_t(np.subtract(values, others)).ci95
    return Claim(name, statistics.fmean(values), statistics.fmean(others), better, ci, seeds, how, None, True)


def summary(config: Config, rows: Sequence[Row]) -> str:
    """The outcome in sentences."""
    scores = Scores(config, rows)
    parts = []
    for task in config.data.tasks:
        have = [method for method in scores.methods(task) if method != "given"]
        start = plus_minus(scores.means(task, "given"))
        told = ", ".join(f"{method} {plus_minus(scores.means(task, method))}" for method in have)
        parts.append(f"{task}: the starting prompt scores {start} on test; {told}.")
    who = "On a simulator, which says nothing about language models: " if config.simulated else ""
    if config.models.target == LOCAL:
        who = "The target is a small language model that was trained for this world alone. "
    if config.scripted:
        who += "A script writes the prompts, which reads examples without fault: figures say nothing about language models as optimizers. "
    seeds = f"{len(config.seeds)} seeds, ± is the 95 % t interval" if len(config.seeds) > 1 else "One seed"
    if 1 < len(config.seeds) < COUNTED:
        seeds += "; claims and p values are over test items and do not count seeds"
    most = "" if config.search.tokens is None else f" and at {config.search.tokens} tokens of both models"
    return f"{who}{' '.join(parts)} All searches stop at {config.search.calls} calls to the target{most}. {seeds}."
