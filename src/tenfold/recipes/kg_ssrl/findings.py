"""From the rows of all trainings to tables, claims and sentences."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tenfold.core.claims import Claim
from tenfold.core.mesh import device_type
from tenfold.core.statistics import paired_t, plus_minus, select
from tenfold.graph.knowledge_graph import KnowledgeGraph
from tenfold.graph.rules import Rule
from tenfold.graph.stats import GraphStats
from tenfold.recipes.kg_ssrl.config import Config
from tenfold.recipes.kg_ssrl.evaluation import ASKED, WALKS
from tenfold.recipes.kg_ssrl.published import SCORES

Row = dict[str, Any]
ARMS = {
    "ssrl": "supervised, then reinforced",
    "rl": "reinforced alone",
    "sl": "supervised alone",
    "ssrl-shaped": "supervised, then reinforced with a shaped reward",
    "rl-shaped": "reinforced with a shaped reward",
}
# What is compared: (the arm, its rival, what the paper finds).
PAIRS: tuple[tuple[str, str, str | None], ...] = (
    ("ssrl", "rl", "at or above its own RL baseline on every figure, four graphs"),
    ("ssrl", "sl", "supervision alone is not enough"),
    ("ssrl-shaped", "rl-shaped", "at or above its own RL baseline on every figure, four graphs"),
    ("ssrl-shaped", "ssrl", None),
    ("rl-shaped", "rl", None),
)
FIGURES = {"mrr": "MRR", "hits@1": "Hits@1", "hits@3": "Hits@3", "hits@10": "Hits@10"}
PATHS = f"rewarded paths in {WALKS} walks"
TAILS = "Tails only, filtered; an answer that the beam does not reach is a miss."


def make_claims(config: Config, rows: Sequence[Row]) -> list[Claim]:
    """Every comparison that was run, paired by seed: MRR, Hits and rewarded paths of one arm beside another's at one budget."""
    return [
        compared(config, select(rows, graph=graph, base=base, arm=arm), select(rows, graph=graph, base=base, arm=rival),
                 figure, paper)
        for graph in config.graphs
        for base in config.bases
        for arm, rival, paper in PAIRS
        if arm in config.arms and rival in config.arms
        for figure in (*FIGURES, "paths")
    ]  # fmt: skip


def compared(config: Config, mine: Sequence[Row], theirs: Sequence[Row], figure: str, paper: str | None) -> Claim:
    """One figure of one arm beside another's."""
    first, rival = mine[0], theirs[0]
    values, baseline = ([float(row[figure]) for row in rows] for rows in (mine, theirs))
    ci95 = (math.nan, math.nan)
    if len(values) > 1:
        ci95 = paired_t([a - b for a, b in zip(values, baseline, strict=True)]).ci95
    shaped = first["arm"].endswith("-shaped") != rival["arm"].endswith("-shaped")
    how = f"{first['graph']}, {first['base']}, test tails, {budget_text(config)} each" + (
        f"; the {config.shaping.kind} model behind the shaped reward (mu {config.shaping.mu:g}) is trained beside that"
        if shaped
        else ""
    )
    return Claim(
        f"{first['graph']}, {first['base']}: {first['arm']} above {rival['arm']}, {FIGURES.get(figure, PATHS)}",
        statistics.fmean(values),
        statistics.fmean(baseline),
        "higher",
        ci95,
        len(values),
        how,
        paper,
        first["graph"] == "synthetic",
    )


def budget_text(config: Config) -> str:
    """What every arm may spend."""
    budget = config.budget
    seconds = "CPU seconds" if device_type() == "cpu" else "seconds"
    return f"{budget.total:g} {seconds if budget.unit == 'seconds' else budget.unit}"


def result_table(
    config: Config, rows: Sequence[Row], graph: str, stats: GraphStats, scorers: Sequence[Row]
) -> list[Row]:
    """Scores of every arm on one graph, with the published ones and the ceiling below; in per cent."""
    ceiling = stats.reachable["test"]
    lines: list[Row] = []
    for base in config.bases:
        for arm in config.arms:
            own = select(rows, graph=graph, base=base, arm=arm)
            line: Row = {"walker": f"{base}, {arm}", "what": ARMS[arm]}
            for name, title in {
                **FIGURES,
                "coverage": "coverage",
                "to_one/mrr": "MRR to-one",
                "to_many/mrr": "MRR to-many",
            }.items():
                if all(name in row for row in own):
                    line[title] = plus_minus([100 * row[name] for row in own], 1)
            line[PATHS] = plus_minus([row["paths"] for row in own], 1)
            line["ceiling of coverage"] = f"{100 * ceiling[config.settings(graph, base).horizon - 1]:.1f}"
            line["steps sl + rl"] = " + ".join(
                f"{statistics.fmean(row[f'{stage}_steps'] for row in own):.0f}" for stage in ("sl", "rl")
            )
            lines.append(line)
    for row in scorers:
        if row["graph"] == graph:
            lines.append({"walker": row["kind"], "what": f"embedding model trained here in {row['seconds']:.0f} CPU seconds; no path"}
                         | {title: f"{100 * row[name]:.1f}" for name, title in FIGURES.items()})  # fmt: skip
    for name, (first, ten, mrr) in SCORES.get(graph, {}).items():
        lines.append(
            {
                "walker": name,
                "what": "published (Lin et al. 2018)",
                "MRR": f"{mrr}",
                "Hits@1": f"{first}",
                "Hits@10": f"{ten}",
            }
        )
    return lines


def result_note(config: Config, graph: str, stats: GraphStats) -> str:
    """The conditions of a table."""
    search = config.search
    words = [
        "± is the 95 % t interval over seeds." if len(config.seeds) > 1 else "One seed, no interval.",
        "Heads and tails, filtered." if search.both_sides else TAILS,
        f"Every arm spent {budget_text(config)}, supervised steps included.",
        *([f"Trained and ranked on {', '.join(config.training.relations)} only."] if config.training.relations else []),
        "The last step may not end on other answers of the "
        + (
            "training triples."
            if search.eval_mask == "train"
            else "training, validation and test triples: more favourable."
        ),
        f"Rewarded paths: different ones to the answer among {WALKS} walks sampled for each of {ASKED} training queries at most, on average.",
        "Ceiling: share of test answers within the horizon's steps of the training graph.",
    ]
    if stats.unseen["test"]:
        what = "count as misses" if search.unseen == "miss" else "are left out"
        words.append(f"{stats.unseen['test']} test triples with an entity that no training triple has {what}.")
    if graph in SCORES:
        words.append("Published figures are quoted second-hand, from other budgets and protocols.")
    return " ".join(words)


def graph_table(stats: Mapping[str, GraphStats]) -> list[Row]:
    """Sizes, degrees and reachability, a line a graph."""
    return [
        {
            "graph": name,
            "entities": one.entities,
            "relations": one.relations,
            **{split: one.triples[split] for split in ("train", "valid", "test")},
            "max / mean / median degree": f"{one.max_degree} / {one.mean_degree:.1f} / {one.median_degree:g}",
            "test answers within 1, 2, .. steps": " / ".join(f"{share:.4f}" for share in one.reachable["test"]),
            "unseen in test": one.unseen["test"],
        }
        for name, one in stats.items()
    ]


def settings_table(config: Config) -> list[Row]:
    """What every base policy was trained with on every graph."""
    return [
        {
            "graph": graph,
            "base": base,
            **{
                name: value
                for name, value in asdict(config.settings(graph, base)).items()
                if name != "max_actions"  # published; ours is data.max_actions
                and not (name in ("emb_dropout", "ff_dropout") and base == "minerva")
                and not (name == "ema_rate" and config.rl.baseline != "ema")
            },
            "rollouts": config.training.rollouts,
        }
        for graph in config.graphs
        for base in config.bases
    ]


def rule_table(rules: Sequence[Rule], kg: KnowledgeGraph, most: int) -> list[Row]:
    """The rules of most support, a line each."""
    best = sorted(rules, key=lambda rule: (-rule.support * rule.confidence, rule.head, rule.body))[:most]
    return [
        {"rule": rule.text(kg), "support": rule.support, "pairs": rule.pairs, "confidence": round(rule.confidence, 3)}
        for rule in best
    ]


def sweep_table(config: Config, rows: Sequence[Row]) -> list[Row]:
    """A line for every value of the swept field and every arm."""
    lines = []
    for value, variant in config.variants().items():
        for graph in variant.graphs:
            for base in variant.bases:
                for arm in variant.arms:
                    own = select(rows, value=value, graph=graph, base=base, arm=arm)
                    line: Row = {config.sweep.field: value, "graph": graph, "walker": f"{base}, {arm}"}
                    for name, title in {**FIGURES, "coverage": "coverage"}.items():
                        line[title] = plus_minus([100 * row[name] for row in own], 1)
                    lines.append(line)
    return lines


def summary(config: Config, rows: Sequence[Row], stats: Mapping[str, GraphStats], described: Mapping[str, str]) -> str:
    """The run in words."""
    words = []
    for graph in config.graphs:
        one = stats[graph]
        words.append(
            f"{graph[0].upper()}{graph[1:]}: {described[graph]}; " if described[graph] != graph else f"{graph}: "
        )
        words[-1] += f"{one.entities} entities, {one.relations} relations, {one.triples['train']} training triples."
        for base in config.bases:
            scores = [
                f"{arm} {plus_minus([row['mrr'] for row in select(rows, graph=graph, base=base, arm=arm)])}"
                for arm in config.arms
            ]
            words.append(f"MRR of {base} on {one.triples['test']} test triples: {', '.join(scores)}.")
    words.append(f"Every arm spent {budget_text(config)}; {TAILS[0].lower()}{TAILS[1:]}")
    return " ".join(words)
