"""From the rows of all stages to tables, claims and sentences."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from tenfold.core.claims import Claim
from tenfold.core.statistics import paired_t, plus_minus, select
from tenfold.recipes.deer.config import ARMS, Config
from tenfold.recipes.deer.experiment import FLOORS, RETRIEVAL, Row
from tenfold.recipes.deer.world import HARD, SEEN, UNSEEN

METRICS = ("P_NoCall", "P_Call", "P_DC", "P_Search", "P_NoSearch", "P_DS")
WRITTEN = {"argument_accuracy": "arguments right", "schema_valid": "arguments valid"}  # of calls of the right tool
THRESHOLD, CALLS, REFUSES = "TF-IDF threshold", "always call (marker token)", "always refuse"
PAPER_DC = "LLaMA-2-7B 84.5 ± 1.6, 13B 89.2 ± 1.6 on its own unseen tools; GPT-4 with 6 demonstrations 89.0 ± 1.2; ToolLLaMA-7B 49.7 ± 2.8"
# Table 3 of the paper: unseen tools of its own, ToolBench, ToolCorpus; NoCall, Call, DC each, in per cent.
PUBLISHED = [
    ("LLaMA2-13B-Chat, 6 demonstrations", 76.5, 48.1, 58.4, 77.4, 33.3, 53.2, 74.5, 72.0, 73.1),
    ("GPT-3.5-Turbo, 6 demonstrations", 61.5, 59.6, 60.4, 82.1, 64.9, 71.6, 56.4, 86.9, 74.9),
    ("GPT-4, 6 demonstrations", 88.6, 89.4, 89.0, 86.5, 84.7, 85.9, 74.4, 97.9, 84.2),
    ("ToolLLaMA-7B", 5.4, 79.3, 49.7, 24.7, 78.0, 55.0, 5.2, 91.8, 56.3),
    ("ToolAlpaca-13B", 2.7, 90.3, 55.2, 16.3, 66.7, 46.5, 7.8, 93.9, 58.2),
    ("ToolDEER-7B", 84.0, 85.2, 84.5, 85.4, 83.3, 84.5, 80.4, 96.0, 89.7),
    ("ToolDEER-13B", 88.0, 91.5, 89.2, 88.5, 86.7, 87.0, 81.6, 97.3, 90.5),
]


def published() -> list[Row]:
    """The paper's table."""
    columns = ["model", *(f"{place} {metric}" for place in ("own", "ToolBench", "ToolCorpus") for metric in ("NoCall", "Call", "DC"))]  # fmt: skip
    return [dict(zip(columns, row, strict=True)) for row in PUBLISHED]


class Scores:
    """Figures by decider, set and seed."""

    def __init__(self, config: Config, rows: Sequence[Row]) -> None:
        self.config, self.rows = config, rows
        self.simulated = rows[0].get("source") == "toy"
        self.deciders = list(dict.fromkeys(name for row in rows for name in row["sets"]))
        self.sets = list(dict.fromkeys(kind for row in rows for each in row["sets"].values() for kind in each))

    def of(self, name: str, kind: str, metric: str) -> list[float]:
        """One figure a seed, in the order of the seeds; empty where the decider or the set is not there."""
        found = []
        for seed in self.config.seeds:
            for row in select(self.rows, seed=seed):
                figures = row["sets"].get(name, {}).get(kind)
                if figures is not None:
                    found.append(float(figures[metric]))
        return found

    def interval(self, name: str, kind: str, metric: str) -> tuple[float, float]:
        """Over tools, of the first seed."""
        for row in select(self.rows, seed=self.config.seeds[0]):
            if kind in row["sets"].get(name, {}):
                low, high = row["sets"][name][kind]["ci95"][metric]
                return float(low), float(high)
        return math.nan, math.nan

    def search(self, name: str, kind: str = UNSEEN) -> list[float]:
        """Mean of P_Search and P_NoSearch."""
        pairs = zip(self.of(name, kind, "P_Search"), self.of(name, kind, "P_NoSearch"), strict=True)
        return [(a + b) / 2 for a, b in pairs]


def make_claims(config: Config, rows: Sequence[Row]) -> list[Claim]:
    """Every comparison that was run, paired by seed."""
    scores = Scores(config, rows)
    claims: list[Claim] = []
    main = config.arms[0]
    n = int(next(iter(rows[0]["sets"].values()))[UNSEEN]["n"]["P_DC"])

    def add(name: str, values: list[float], rival: list[float], better: Any = "higher", paper: str | None = None, how: str | None = None) -> None:  # fmt: skip
        if not values or len(values) != len(rival) or not all(map(math.isfinite, [*values, *rival])):
            return
        ci95 = (
            paired_t([a - b for a, b in zip(values, rival, strict=True)]).ci95
            if len(values) > 1
            else (math.nan, math.nan)
        )
        said = how or f"share of right decisions on {n} queries of tools never seen, candidates at random, 60 : 40"
        claims.append(Claim(name, statistics.fmean(values), statistics.fmean(rival), better, ci95, len(values), said, paper, scores.simulated))  # fmt: skip

    def dc(name: str) -> list[float]:
        return scores.of(name, UNSEEN, "P_DC")

    add(f"{main}: unseen P_DC above the TF-IDF threshold", dc(main), dc(THRESHOLD), paper=PAPER_DC)
    add(f"{main}: unseen P_DC above always calling", dc(main), dc(CALLS))
    add(f"{main}: unseen P_DC above always refusing", dc(main), dc(REFUSES))
    for arm in config.arms[1:]:
        add(f"{main} above {arm}: unseen P_DC", dc(main), dc(arm), paper=_SAMPLING.get(arm))
    for name in scores.deciders:
        if config.learner == "lora" and name.startswith(config.tuning.base):
            add(f"{main} above {name}: unseen P_DC", dc(main), dc(name))
    if "call_only" in config.arms:
        refusals = scores.of("call_only", UNSEEN, "P_NoCall")
        add("call_only: right refusals below 10 %", refusals, [0.1] * len(refusals), "lower", "ToolLLaMA-7B 5.4 ± 1.7")
    head = "mean of P_Search and P_NoSearch"
    add(f"{main}: {head} above the regression on words", scores.search(main), scores.search(THRESHOLD), how=head)
    for kind in ("toolbench", "toolcorpus"):
        if kind in scores.sets:
            add(f"{main}: {kind} P_DC above the TF-IDF threshold", scores.of(main, kind, "P_DC"), scores.of(THRESHOLD, kind, "P_DC"), how=f"ready items of {kind}, candidates as they come")  # fmt: skip
    return claims


_SAMPLING = {
    "random": "unseen P_DC, 7B: mixture 83.5, random 77.5 (read off Figure 5, ± 1)",
    "intra_class": "unseen P_DC, 7B: mixture 83.5, intra-class 81 (read off Figure 5, ± 1)",
    "inter_class": "unseen P_DC, 7B: mixture 83.5, inter-class 77 (read off Figure 5, ± 1)",
}


def decisions_table(config: Config, rows: Sequence[Row], kind: str) -> list[Row]:
    """A line a decider on one set, in per cent."""
    scores, lines = Scores(config, rows), []
    for name in scores.deciders:
        if not scores.of(name, kind, "P_DC"):
            continue
        line: Row = {"decider": name}
        for metric in METRICS:
            values = scores.of(name, kind, metric)
            line[metric] = (
                "" if not all(map(math.isfinite, values)) else plus_minus([100 * value for value in values], 1)
            )
        low, high = scores.interval(name, kind, "P_DC")
        line["P_DC over tools, first seed"] = "" if math.isnan(low) else f"{100 * low:.1f} – {100 * high:.1f}"
        for metric, title in (("ece_search", "ECE search"), ("ece_call", "ECE call")):
            values = scores.of(name, kind, metric)
            line[title] = "" if not all(map(math.isfinite, values)) else plus_minus(values, 3)
        lines.append(line)
    for metric, title in WRITTEN.items():  # of those that write calls: none does in a run of rankers
        found = {line["decider"]: scores.of(line["decider"], kind, metric) for line in lines}
        if any(math.isfinite(value) for values in found.values() for value in values):
            for line in lines:
                own = [100 * value for value in found[line["decider"]] if math.isfinite(value)]
                line[title] = plus_minus(own, 1) if own else ""
    return lines


def training_table(config: Config, rows: Sequence[Row]) -> list[Row]:
    """A line an arm: what it learned from."""
    lines = []
    for arm in config.arms:
        own = select(rows, stage=arm)
        kept = own[0]["kept"]
        line: Row = {"arm": arm, "candidates": ARMS[arm], "samples": own[0]["samples"], **{name: kept.get(name, 0) for name in ("call", "no_call", "no_search")}}  # fmt: skip
        line["dropped: call unreadable"] = own[0]["dropped"].get("parse", 0)
        line["filled from other clusters"] = sum(own[0]["filled"].values())
        line["seconds of steps"] = plus_minus([row["seconds"] for row in own], 1)
        lines.append(line)
    return lines


def retrieval_table(rows: Sequence[Row]) -> list[Row]:
    """A line a retriever."""
    return [{"retriever": name, **{key: round(value, 3) for key, value in figures.items()}} for name, figures in retrieved(rows).items()]  # fmt: skip


def retrieved(rows: Sequence[Row]) -> Row:
    """What the first seed's floors kept of the retrievers."""
    return next((dict(row[RETRIEVAL]) for row in rows if RETRIEVAL in row), {})


def tools_table(config: Config, rows: Sequence[Row]) -> list[Row]:
    """A line an unseen tool: right decisions of the first arm, the worst first, all seeds together."""
    counts: dict[str, list[int]] = {}
    for row in select(rows, stage=config.arms[0]):
        for tool, (right, asked) in row["sets"][config.arms[0]][UNSEEN]["per_tool"].items():
            both = counts.setdefault(tool, [0, 0])
            both[0] += right
            both[1] += asked
    order = sorted(counts, key=lambda tool: (counts[tool][0] / counts[tool][1], -counts[tool][1], tool))
    return [{"tool": tool, "right": counts[tool][0], "queries": counts[tool][1], "share, %": round(100 * counts[tool][0] / counts[tool][1], 1)} for tool in order]  # fmt: skip


def confusion(config: Config, rows: Sequence[Row], name: str) -> dict[str, dict[str, int]]:
    """Counts of right branch against what was said, on unseen tools, over all seeds."""
    found: dict[str, dict[str, int]] = {}
    for row in rows:
        for right, counts in row["sets"].get(name, {}).get(UNSEEN, {}).get("confusion", {}).items():
            for said, count in counts.items():
                found.setdefault(right, {})[said] = found.get(right, {}).get(said, 0) + count
    return found


def summary(config: Config, rows: Sequence[Row]) -> str:
    """The run in words."""
    scores, main = Scores(config, rows), config.arms[0]

    def percent(values: Sequence[float]) -> str:
        return plus_minus([100 * value for value in values], 1)

    what = {"ranker": "A small ranker", "decoder": "A decoder from scratch", "lora": f"{config.tuning.base} with adapters"}[config.learner]  # fmt: skip
    where = "a simulated world of tools" if scores.simulated else "ToolDEER's catalogue of real plugins"
    seen, unseen = scores.of(main, SEEN, "P_DC"), scores.of(main, UNSEEN, "P_DC")
    words = [
        f"{what} learns on {where} whether to search for a tool, and whether any of {config.candidates.k} candidates fits.",
        f"On tools never seen it decides right in {percent(unseen)} % of the queries ({percent(seen)} % on new queries of tools it was trained on: a gap of {percent([a - b for a, b in zip(seen, unseen, strict=True)])} points); "
        f"the TF-IDF threshold in {percent(scores.of(THRESHOLD, UNSEEN, 'P_DC'))} %, always calling in {percent(scores.of(CALLS, UNSEEN, 'P_DC'))} %.",
        f"Search or not: {percent(scores.search(main))} % (mean of both branches), the regression on words {percent(scores.search(THRESHOLD))} %.",
    ]
    if HARD in scores.sets:
        words.append(f"On BFCL's irrelevant queries, which sound like tool queries, {percent(scores.of(main, HARD, 'P_NoSearch'))} % are answered without a search: what tells general queries from others here is their style.")  # fmt: skip
    if statistics.fmean(unseen) < statistics.fmean(scores.of(THRESHOLD, UNSEEN, "P_DC")):
        words.append("The trained model stays below the floor.")
    return " ".join(words)


def accessor(config: Config, rows: Sequence[Row], metric: str) -> Callable[[str, str], list[float]]:
    """Figures of one metric by decider and set."""
    scores = Scores(config, rows)
    return lambda name, kind: scores.of(name, kind, metric)


__all__ = ["FLOORS", "Scores", "accessor", "confusion", "decisions_table", "make_claims", "published", "retrieval_table", "retrieved", "summary", "tools_table", "training_table"]  # fmt: skip
