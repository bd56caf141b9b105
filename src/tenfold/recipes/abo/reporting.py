"""The report of a comparison."""

from __future__ import annotations

from collections.abc import Sequence

from tenfold.core.run import Run
from tenfold.recipes.abo import figures, findings
from tenfold.recipes.abo.config import Config
from tenfold.recipes.abo.searches import Row


def report(config: Config, run: Run, rows: Sequence[Row]) -> None:
    """Everything that a reader sees."""
    run.text("summary", findings.summary(config, rows))
    over = "Lines: Wilson 95 % intervals over all test items; dots: seeds; dashed: the starting prompt."
    run.figure("scores", figures.scores_figure(config, rows), caption=_marked(config, over))
    run.figure(
        "curves",
        figures.curves_figure(config, rows),
        caption=_marked(config, "The first seed. Val flatters: prompts are chosen by it."),
    )
    run.table(
        "scores",
        findings.score_table(config, rows),
        note=_marked(
            config,
            "“Within paraphrase noise”: the gain on val is smaller than the spread of val over paraphrases of the starting prompt. p: McNemar over all items pooled, which does not count seeds. The look at test is once a run.",
        ),
    )
    run.table(
        "tokens",
        findings.token_table(config, rows),
        note="Demonstrations lengthen every call: equal calls are not equal tokens. “Val at equal tokens”: what a search had reached when the leanest of its seed was at its end; equal tokens throughout: tenfold abo compare --tokens.",
    )
    kinds = {row["kind"] for row in rows}
    if "reflections" in kinds:
        if config.simulated:
            run.figure(
                "reflections",
                figures.probe_figure(config, rows),
                caption=_marked(config, "The optimizer blames a fixed cause with probability β, else the true one."),
            )
        run.table(
            "reflections",
            findings.reflection_table(config, rows),
            note=_marked(
                config,
                "Prior bias 1: what is blamed on real errors is what is blamed on none (right answers shown as errors, shuffled targets, no example).",
            ),
        )
    run.table(
        "diagnostics",
        findings.diagnosis_table(config, rows),
        note=_marked(config, f"Of the searches of seed {config.seeds[0]}."),
    )
    if "bandit" in kinds:
        run.table(
            "selectors",
            findings.bandit_table(rows),
            note="Simulated bandits of 40 arms: the best 0.7, the others below 0.65.",
        )
    run.table(
        "prompts",
        findings.prompt_table(config, rows),
        note=f"What was found with seed {config.seeds[0]}. The tree behind each: searches/*/report.html in the run folder.",
    )
    run.table(
        "the paper's figures",
        findings.PUBLISHED,
        note="As a published digest of the paper quotes them; a dash: not at hand. Other models and an optimizer of the GPT family: not to be compared with the figures above.",
    )
    # What the simulator says of the diagnoses belongs to its own presets, not to a comparison that somebody asked for.
    for claim in findings.make_claims(config, rows, self_test=run.preset != "compare"):
        run.claim(claim)


def _marked(config: Config, text: str) -> str:
    """A simulator, or a scripted optimizer, is named wherever its figures stand."""
    return f"{text} Simulator." if config.simulated else f"{text} Scripted optimizer." if config.scripted else text
