"""The report of a run: summary, learning curves, tables, answers with their paths, rules, claims."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import torch

from tenfold.core.run import Run
from tenfold.graph.answers import AnswerIndex
from tenfold.graph.knowledge_graph import KnowledgeGraph
from tenfold.graph.reasoner import Answer, Reasoner
from tenfold.graph.rules import save_rules
from tenfold.graph.stats import GraphStats, graph_stats
from tenfold.recipes.kg_ssrl import figures, findings
from tenfold.recipes.kg_ssrl.config import Config
from tenfold.recipes.kg_ssrl.evaluation import of_relations, rules_of
from tenfold.recipes.kg_ssrl.experiment import plan
from tenfold.recipes.kg_ssrl.graphs import describe, graph_file
from tenfold.recipes.kg_ssrl.learning import STAGES, trained_relations
from tenfold.recipes.kg_ssrl.training import Job, model_folder

Row = dict[str, Any]
QUERIES, EACH = 4, 3  # answered in the report, and answers of each
RULES = 12


def report(config: Config, run: Run, rows: Sequence[Row], scorers: Sequence[Row]) -> None:
    """Everything that a reader sees."""
    if config.sweep.field:
        sweep_report(config, run, rows)
        return
    graphs = {name: KnowledgeGraph.load(graph_file(run.path, "", name)) for name in config.graphs}
    horizon = max(config.settings(graph, base).horizon for graph in config.graphs for base in config.bases)
    stats: dict[str, GraphStats] = {name: read_stats(run, name, kg, horizon) for name, kg in graphs.items()}
    described: dict[str, str] = {name: describe(name, config.data) for name in config.graphs}
    run.text("summary", findings.summary(config, rows, stats, described))
    run.figure("learning", learning(config, run), caption=learning_caption(config))
    for name, one in stats.items():
        table = findings.result_table(config, rows, name, one, scorers)
        run.table(f"{name}, per cent", table, note=findings.result_note(config, name, one))
    first = plan(config)[0]
    reasoner = Reasoner.load(model_folder(run.path, first))
    show_answers(config, run, first, reasoner)
    show_rules(config, run, first, reasoner)
    run.table(
        "graphs", findings.graph_table(stats), note="Degrees and steps with inverse edges where these are walked."
    )
    run.table(
        "settings",
        findings.settings_table(config),
        note="Where the config leaves a value open: that published for the graph, for others the base policy's.",
    )
    for claim in findings.make_claims(config, rows):
        run.claim(claim)


def sweep_report(config: Config, run: Run, rows: Sequence[Row]) -> None:
    """What differs between the values of one field."""
    field, values = config.sweep.field, config.sweep.values
    budget = findings.budget_text(config)
    run.text("summary", f"{field} at {', '.join(values)}; every training spent {budget} unless the sweep changes that.")
    if field not in ("graphs", "bases", "arms"):
        run.figure("sweep", figures.sweep_figure(config, rows), caption="Lines: means over seeds; dots: seeds.")
    note = "In per cent. " + ("± is the 95 % t interval over seeds. " if len(config.seeds) > 1 else "One seed. ")
    run.table("sweep", findings.sweep_table(config, rows), note=note + findings.TAILS)


def read_stats(run: Run, name: str, kg: KnowledgeGraph, horizon: int) -> GraphStats:
    """The graph's measures, taken once a run."""
    stage = f"stats-{name}"
    if not run.done(stage):
        run.save_stage(stage, graph_stats(kg, horizon))
    return GraphStats(**run.load_stage(stage))


def learning(config: Config, run: Run) -> Any:
    """The figure of the learning curves."""
    curves: dict[tuple[str, str, str], list[figures.Curve]] = {}
    handover: dict[tuple[str, str, str], list[float]] = {}
    for job in plan(config):
        key = (job.graph, job.base, job.arm)
        curve, before = [], 0.0
        stages = config.budget.stages(job.arm)
        for stage in STAGES:
            points = [row for row in run.rows(f"{job.name}-{stage}") if "valid_mrr" in row]
            curve += [(before + row["seconds"], row["valid_mrr"]) for row in points]
            if stage == "sl" and len(stages) == 2:
                before = curve[-1][0]
                handover.setdefault(key, []).append(before)
        curves.setdefault(key, []).append(curve)
    return figures.learning_figure(config, curves, {key: statistics.fmean(when) for key, when in handover.items()})


def learning_caption(config: Config) -> str:
    """What the curves are."""
    words = f"MRR on {config.search.valid_queries} validation triples at most; dotted: reinforcement takes over."
    return words + (" Lines: means over seeds; bands: all of them." if len(config.seeds) > 1 else " One seed.")


def show_answers(config: Config, run: Run, job: Job, reasoner: Reasoner) -> None:
    """A few test queries, answered without the edges that answer them in the graph."""
    kg = reasoner.kg
    triples = of_relations(kg, "test", config)
    picked = triples[torch.linspace(0, len(triples) - 1, min(QUERIES, len(triples))).round().long()]
    everything = kg.answers()
    groups = []
    for (source, relation, _), answers in zip(
        picked.tolist(), reasoner.answer(picked[:, 0], picked[:, 1].tolist(), k=EACH, known="mask"), strict=True
    ):
        title = f"{kg.entity_names[source]} — {kg.relation_names[relation]} → ?   right: {_right(kg, everything, source, relation, answers)}"
        groups.append((title, answers))
    run.figure(
        "answers",
        figures.answers_figure(groups),
        caption=f"{job.base}, {job.arm}, first seed: test queries, evenly picked, the graph's own edges of the query taken away. "
        "'Right' names those shown that are known from training, validation or test.",
    )


def _right(kg: KnowledgeGraph, known: AnswerIndex, source: int, relation: int, answers: Sequence[Answer]) -> str:
    ids = torch.tensor([kg.entity_id(answer.entity) for answer in answers], dtype=torch.int64)
    right = known.contains(torch.full_like(ids, source), torch.full_like(ids, relation), ids)
    names = [answer.entity for answer, is_right in zip(answers, right.tolist(), strict=True) if is_right]
    return ", ".join(names) or "none of these"


def show_rules(config: Config, run: Run, job: Job, reasoner: Reasoner) -> None:
    """The path rules that the first walker follows."""
    kg = reasoner.kg
    relations = trained_relations(config, kg)
    rules = rules_of(
        reasoner.policy, kg, horizon=reasoner.horizon, mask_inverse=reasoner.mask_inverse, relations=relations
    )
    save_rules(rules, kg, run.path / "rules.csv")
    run.table(
        "rules",
        findings.rule_table(rules, kg, RULES),
        note=f"Of {job.name}: relations along its likeliest walks for training queries, the edges in question taken away. Support: "
        "pairs (x, y) found that are known; confidence: their share. The whole list: rules.csv, or tenfold kg-ssrl rules.",
    )
