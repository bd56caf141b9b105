"""The report of a run: summary, pictures, tables, decisions to look at, claims."""

from __future__ import annotations

from collections.abc import Sequence

from tenfold.core.run import Run
from tenfold.recipes.deer import figures, findings
from tenfold.recipes.deer.config import Config
from tenfold.recipes.deer.experiment import FLOORS, Row
from tenfold.recipes.deer.world import HARD, SEEN, UNSEEN

TOOLS, EXAMPLES = 25, 12  # rows shown


def report(config: Config, run: Run, rows: Sequence[Row]) -> None:
    """Everything that a reader sees."""
    over = "± is the 95 % t interval over seeds" if len(config.seeds) > 1 else "One seed, no interval over seeds"
    run.text("summary", findings.summary(config, rows))
    line = "Left: a model that never refuses stands at the left edge, one that never calls at the bottom. Right: the dashed line is the TF-IDF threshold"
    dots = "; dots are seeds." if len(config.seeds) > 1 else "."
    run.figure("decisions", figures.decisions_figure(config, rows), caption=line + dots)
    run.figure("confusion", figures.confusion_figure(config, rows), caption="Decisions on unseen tools and general queries, all seeds together.")  # fmt: skip
    run.figure("retrieval", figures.retrieval_figure(rows), caption="Unseen tools: the right one among those that a retriever shows. Decisions are scored apart from it, with the candidates given.")  # fmt: skip
    scores = findings.Scores(config, rows)
    titles = {UNSEEN: "unseen tools", SEEN: "seen tools, new queries", "toolbench": "ToolBench items", "toolcorpus": "ToolCorpus items", HARD: "irrelevant queries of BFCL"}  # fmt: skip
    for kind in scores.sets:
        run.table(titles.get(kind, kind), findings.decisions_table(config, rows, kind), note=f"In per cent. {over}; intervals over tools are cluster bootstraps. ECE: expected calibration error. Arguments, where a model writes them: of calls of the right tool, as BFCL compares them.")  # fmt: skip
    run.table("training", findings.training_table(config, rows), note="What each arm learned from.")
    run.table("retrievers", findings.retrieval_table(rows), note="Over the unseen tools alone.")
    tools = findings.tools_table(config, rows)
    run.table("tools that are hardest", tools[:TOOLS], note=f"Right decisions of {config.arms[0]}, the worst {min(TOOLS, len(tools))} of {len(tools)} unseen tools, all seeds.")  # fmt: skip
    run.table(
        "decisions to look at", _examples(config, rows), note="Of the first seed, on unseen tools; wrong ones first."
    )
    if not scores.simulated:
        run.table("published", findings.published(), note="The paper's Table 3, other models on other splits: its own 77 test tools are not among the data here.")  # fmt: skip
    for claim in findings.make_claims(config, rows):
        run.claim(claim)


def _examples(config: Config, rows: Sequence[Row]) -> list[Row]:
    own = next(row for row in rows if row["stage"] == config.arms[0] and row["seed"] == config.seeds[0])
    lines = [{"query": each["query"], "candidates": ", ".join(each["candidates"]), "right": each["right"], "said": each["said"], "sure": "" if each["sure"] is None else f"{each['sure']:.2f}"} for each in own["examples"]]  # fmt: skip
    return sorted(lines, key=lambda line: line["right"] == line["said"])[:EXAMPLES]


__all__ = ["FLOORS", "report"]
