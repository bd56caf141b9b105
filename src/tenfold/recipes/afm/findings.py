"""From the rows of all trainings to tables, claims and a summary in words."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from tenfold.core.claims import Claim
from tenfold.core.statistics import paired_t, plus_minus, select
from tenfold.recipes.afm.chain import CHAIN
from tenfold.recipes.afm.config import Config
from tenfold.recipes.afm.sweeps import best_octave, best_rates, drifts

Row = dict[str, Any]

SHAKESPEARE_BAR = 1.70  # nats a character; a plain AdamW run of this shape reaches 1.66, nanoGPT's README gives 1.88
PARITY = 0.03  # nats by which AdaStar may be behind AdamW and still count as on par
STAGES_NOTE = (
    "Losses in nats a token on the last 5 % of each source, in rows of core training's length; 'mixture' weighs them as "
    "core training does. WikiText-2 is text of a kind that no stage saw. First seed."
)
WIDTHS_NOTE = (
    "Means over seeds. Best rate: the vertex of the parabola through the lowest loss and its neighbours; drift: its distance "
    "from the first width's, in factors of two."
)
PAPER_NOTE = (
    "The paper's figures are of models of billions of parameters on trillions of tokens, and some are quoted second-hand "
    "(u); here a small model is measured by its loss. n/a: nothing here compares."
)


def beyond(row: Row, length: int) -> float:
    """Mean loss of a long-context model at the positions that earlier stages never saw."""
    return statistics.fmean(row["by_position"][length:])


def several_seeds(config: Config) -> str:
    """What the ± in a table is."""
    return "± is the 95 % t interval over seeds." if len(config.seeds) > 1 else "One seed, no interval."


def make_claims(config: Config, chain: Sequence[Row], race: Sequence[Row], sweep: Sequence[Row]) -> list[Claim]:
    """Every comparison that was run, paired by seed."""
    claims = [*race_claims(race), *width_claims(config, sweep)]
    names = {row["name"] for row in chain}
    for method in ("magnitude", "random"):
        if {"healed", f"healed-{method}"} <= names:
            claims.append(
                paired_claim(
                    f"soft top-k pruning below {method} pruning after {config.stages.distil.steps} more steps",
                    losses(chain, "healed"),
                    losses(chain, f"healed-{method}"),
                    f"validation loss, nats a token; {config.model.wide_ffn} to {config.model.ffn} inner units, "
                    f"{config.stages.prune.steps} steps under the mask, then without a teacher",
                )
            )
    taught = f"a model of the final width from random weights, {config.stages.distil.steps} steps, the same batches"
    for kind, words in (("top1", "the paper's label mix"), ("kl", "soft targets")):
        if {"fresh", f"fresh-{kind}"} <= names:
            claims.append(
                paired_claim(
                    f"distilled ({words}) below undistilled: validation loss",
                    losses(chain, f"fresh-{kind}"),
                    losses(chain, "fresh"),
                    f"nats a token; {taught}",
                    paper="+5 % MMLU, +3 % GSM8K by distillation; no loss is given" if kind == "top1" else None,
                )
            )
    if {"fresh", "fresh-top1"} <= names:
        claims.append(
            paired_claim(
                "distilled (the paper's label mix) above undistilled: next-token accuracy",
                losses(chain, "fresh-top1", "accuracy"),
                losses(chain, "fresh", "accuracy"),
                f"share of validation tokens; {taught}",
                better="higher",
            )
        )
    fresh = f"fresh-{config.stages.targets}"
    if fresh in names:
        claims.append(
            paired_claim(
                "pruned start below random start, both distilled",
                losses(chain, "distil"),
                losses(chain, fresh),
                f"validation loss, nats a token; {config.stages.distil.steps} steps each",
                paper="pruning before training: 0 to 2 % on final benchmarks",
            )
        )
    if "context-same-base" in names:
        old, new = config.stages.continued.length, config.stages.context.length
        claims.append(
            paired_claim(
                f"rotary base rule below unchanged base at positions {old} to {new - 1}",
                [beyond(row, old) for row in select(chain, name="context")],
                [beyond(row, old) for row in select(chain, name="context-same-base")],
                f"validation loss, nats a token; rows {new // old} times as long, {config.stages.context.steps} steps",
                paper="base 500 000 to 6 315 089 for rows of 32 768; no comparison is given",
            )
        )
    return claims


def race_claims(race: Sequence[Row]) -> list[Claim]:
    """AdaStar against the bar and against AdamW, each at its best rate."""
    if not race:
        return []
    best = {kind: select(race, optimizer=kind, lr=lr) for kind, lr in _raced(race)}
    ours, theirs = ([row["loss"] for row in best[kind]] for kind in ("adastar", "adamw"))
    rates = ", ".join(f"{kind} {rows[0]['lr']:g}" for kind, rows in best.items())
    how = f"nats a character on the last 10 % of Shakespeare; each at its best rate of the first seed ({rates})"
    return [
        paired_claim(
            f"AdaStar below {SHAKESPEARE_BAR} nats a character on Shakespeare", ours, [SHAKESPEARE_BAR] * len(ours), how
        ),
        paired_claim(
            f"AdaStar no more than {PARITY} nats behind AdamW",
            ours,
            [loss + PARITY for loss in theirs],
            f"{how}; the baseline is AdamW's loss + {PARITY}",
            paper="core recipe slightly better than AdamW's, on par",
        ),
    ]


def width_claims(config: Config, sweep: Sequence[Row]) -> list[Claim]:
    """How far the best rate moves with the width."""
    if not sweep:
        return []
    widths = ", ".join(map(str, config.sweep.widths))
    how = f"factors of two between the best rates of widths {widths}, largest distance from the first; Shakespeare"
    scaled, plain = (drifts(config, sweep, mup) for mup in (True, False))
    return [
        paired_claim("muP-simple: best rate within one grid point", scaled, [1.0] * len(scaled), how),
        paired_claim("muP-simple: best rate moves less than without it", scaled, plain, how),
    ]


def losses(rows: Sequence[Row], name: str, field: str = "loss") -> list[float]:
    """A figure of a training, one a seed."""
    return [row[field] for row in select(rows, name=name)]


def paired_claim(
    name: str,
    values: Sequence[float],
    baseline: Sequence[float],
    how: str,
    *,
    better: Any = "lower",
    paper: str | None = None,
) -> Claim:
    """Means over seeds with the paired t interval of their difference; none for one seed."""
    ci95 = (math.nan, math.nan)
    if len(values) > 1:
        ci95 = paired_t([a - b for a, b in zip(values, baseline, strict=True)]).ci95
    return Claim(
        name=name,
        value=statistics.fmean(values),
        baseline=statistics.fmean(baseline),
        better=better,
        ci95=ci95,
        seeds=len(values),
        how=how,
        paper=paper,
    )


def stage_table(config: Config, rows: Sequence[Row]) -> list[Row]:
    """The chain of the first seed, one line a stage."""
    lines = []
    for name in CHAIN:
        for row in select(rows, name=name, seed=config.seeds[0]):
            line = {
                "stage": name,
                "inner width": row["ffn"],
                "parameters": row["parameters"],
                "in the embedding": row["embedding"],
                "steps": row["steps"],
                "tokens": row["tokens"],
                "row": getattr(config.stages, name).length,
                "rotary base": round(row["rope_base"]),
                "loss, mixture": row["loss"],
            }
            line |= {f"loss, {key.removeprefix('loss_')}": row[key] for key in row if key.startswith("loss_")}
            line["next-token accuracy"] = row["accuracy"]
            if "bits_per_byte" in row:
                line["WikiText-2 bits / byte"] = row["bits_per_byte"]
            lines.append({**line, "seconds": row["seconds"]})
    return lines


WORDS = {
    "prune": "cut by soft top-k",
    "prune-magnitude": "cut by magnitude",
    "prune-random": "cut at random",
    "distil": "cut by soft top-k, then taught: the chain",
    "healed": "cut by soft top-k, then trained on",
    "healed-magnitude": "cut by magnitude, then trained on",
    "healed-random": "cut at random, then trained on",
    "fresh": "random weights, no teacher",
    "fresh-top1": "random weights, taught (label mix)",
    "fresh-kl": "random weights, taught (soft targets)",
    "core": "the teacher, at its full width",
}


def rival_table(config: Config, rows: Sequence[Row]) -> list[Row]:
    """Stages of pruning and distillation beside their rivals, over seeds; empty where there is none."""
    if not set(config.rivals) - {"context-same-base"}:
        return []
    lines = []
    for name, words in WORDS.items():
        if chosen := select(rows, name=name):
            lines.append(
                {
                    "model": words,
                    "inner width": chosen[0]["ffn"],
                    "steps of this stage": chosen[0]["steps"],
                    "validation loss": plus_minus([row["loss"] for row in chosen], 4),
                    "next-token accuracy": plus_minus([row["accuracy"] for row in chosen], 4),
                }
            )
    return lines


def race_table(race: Sequence[Row]) -> list[Row]:
    """Loss of every optimizer and rate that was tried."""
    kinds = sorted({(row["optimizer"], row["lr"]) for row in race})
    return [
        {
            "optimizer": kind,
            "peak rate": lr,
            "seeds": len(select(race, optimizer=kind, lr=lr)),
            "validation loss": plus_minus([row["loss"] for row in select(race, optimizer=kind, lr=lr)], 4),
        }
        for kind, lr in kinds
    ]


def width_table(config: Config, sweep: Sequence[Row]) -> list[Row]:
    """Mean loss over seeds of every width and rate, with muP-simple and without, and the drift."""
    lines: list[Row] = []
    first = math.nan
    for mup in (True, False):
        for width in config.sweep.widths:
            base = width == config.sweep.widths[0]
            if base and not mup:
                continue
            chosen = [row for row in sweep if row["width"] == width and (base or bool(row["mup"]) == mup)]
            line: Row = {"width": width, "rule": "muP-simple" if mup else "one rate for all"}
            means = [statistics.fmean(row["loss"] for row in chosen if row["lr"] == lr) for lr in config.sweep.rates]
            line |= {f"{lr:g}": mean for lr, mean in zip(config.sweep.rates, means, strict=True)}
            octave = best_octave(config.sweep.rates, means)
            first = octave if base else first
            lines.append({**line, "best rate": 2.0**octave, "drift": octave - first})
    return lines


def summary(config: Config, rows: Sequence[Row], source: str) -> str:
    """What came out, in words."""
    (core, last) = (select(rows, name=name, seed=config.seeds[0])[0] for name in ("core", "context"))
    old, new = config.stages.continued.length, config.stages.context.length
    before = statistics.fmean(last["by_position_before"][old:])
    words = [
        f"Text: {source}. {len(config.seeds)} seed{'s' * (len(config.seeds) > 1)}.",
        f"Core training took a model of {core['parameters'] + core['embedding']:,} parameters to "
        f"{core['loss']:.3f} nats a token.",
    ]
    if config.model.wide_ffn:
        cut, taught = (select(rows, name=name, seed=config.seeds[0])[0] for name in ("prune", "distil"))
        words.append(
            f"Half of its inner units were cut: {cut['loss']:.3f}; {cut['parameters'] / core['parameters']:.0%} of the "
            f"parameters outside the embedding are left. Taught by the unpruned model it reached {taught['loss']:.3f}."
            if config.model.ffn * 2 == config.model.wide_ffn
            else f"{config.model.ffn} of its {config.model.wide_ffn} inner units were kept: {cut['loss']:.3f}; taught by the "
            f"unpruned model it reached {taught['loss']:.3f}."
        )
    words.append(
        f"The last stage reads rows of {new} tokens: beyond token {old} the loss went from {before:.3f} to "
        f"{beyond(last, old):.3f}."
    )
    if len(config.seeds) == 1:
        words.append("One seed: nothing is claimed.")
    return " ".join(words)


def beside_the_paper(config: Config, rows: Sequence[Row], race: Sequence[Row]) -> list[Row]:
    """The paper's figures beside the same quantities of this run."""

    def gap(name: str, other: str, field: str = "loss") -> str:
        values, baseline = losses(rows, name, field), losses(rows, other, field)
        if not values or not baseline:
            return "n/a"
        mean = statistics.fmean(values) - statistics.fmean(baseline)
        return (
            f"{100 * mean:+.2f} points of next-token accuracy" if field == "accuracy" else f"{mean:+.4f} nats a token"
        )

    core, last = (select(rows, name=name, seed=config.seeds[0])[0] for name in ("core", "context"))
    optimizer = "n/a"
    if race:
        means = {
            kind: statistics.fmean(row["loss"] for row in select(race, optimizer=kind, lr=lr))
            for kind, lr in _raced(race)
        }
        optimizer = f"{means['adastar'] - means['adamw']:+.4f} nats a character (AdaStar - AdamW)"
    return [
        {
            "figure": "parameters outside / in the embedding",
            "paper": "2.58e9 / 0.15e9 (on-device)",
            "here": f"{last['parameters']:,} / {last['embedding']:,}",
        },
        {
            "figure": "model before pruning",
            "paper": "6.4e9",
            "here": f"{core['parameters'] + core['embedding']:,}" if config.model.wide_ffn else "n/a",
        },
        {"figure": "core recipe against AdamW", "paper": "slightly better, on par", "here": optimizer},
        {
            "figure": "pruned against random start, both distilled",
            "paper": "0 to 2 % on final benchmarks",
            "here": gap("distil", f"fresh-{config.stages.targets}"),
        },
        {
            "figure": "distilled against undistilled",
            "paper": "+5 % MMLU, +3 % GSM8K",
            "here": gap("fresh-top1", "fresh", "accuracy"),
        },
        {
            "figure": "rotary base, first and last",
            "paper": "500 000, 6 315 089 (8192 to 32 768 tokens)",
            "here": f"{core['rope_base']:,.0f}, {last['rope_base']:,.0f} "
            f"({config.stages.continued.length} to {config.stages.context.length} tokens)",
        },
        {"figure": "MMLU, 5-shot", "paper": "on-device 61.4, server 75.4 (u)", "here": "n/a"},
        {"figure": "GSM8K, 5-shot", "paper": "server 72.4 (u)", "here": "n/a"},
        {"figure": "people's preference against Phi-3-mini", "paper": "47.7 % wins (on-device)", "here": "n/a"},
        {"figure": "people's preference against GPT-3.5", "paper": "> 50 % wins, 27.4 % ties (server)", "here": "n/a"},
    ]


def _raced(race: Sequence[Row]) -> list[tuple[str, float]]:
    """(optimizer, the rate that all seeds took)."""
    first = [row for row in race if row["seed"] == min(r["seed"] for r in race)]
    return list(best_rates(first).items())
