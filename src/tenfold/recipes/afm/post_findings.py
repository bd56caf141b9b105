"""From the rows after pre-training to one table, claims and words."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from tenfold.core.claims import Claim
from tenfold.core.statistics import plus_minus, select
from tenfold.recipes.afm.config import Config
from tenfold.recipes.afm.findings import Row, paired_claim
from tenfold.recipes.afm.safety_set import pooled, rate

WORDS = {
    "context": "pre-trained",
    "sft": "supervised fine-tuning (SFT)",
    "rs": "SFT, then rejection sampling",
    "dpo": "SFT, then DPO",
    "mdloo": "SFT, then MDLOO",
    "mdloo-clip": "the same with PPO's clip",
    "mdloo-mean": "the same without leave-one-out",
    "compressed": "the best of them, palettized",
    "recovered": "with the recovery adapter",
}
NOTE = (
    "Accuracy: share of answers drawn at the sampling temperature that are right, on held-out toy instructions; greedy: of the "
    "likeliest answers. Loss: nats a token of the pre-training mixture, which alignment is not about."
)


def stage_rows(rows: Sequence[Row]) -> list[Row]:
    """One line a stage, over seeds."""
    lines = []
    for name, words in WORDS.items():
        if chosen := select(rows, name=name):
            line: Row = {"stage": words, "bits a weight": round(chosen[0].get("bits", 16.0), 2)}
            for field in ("accuracy", "greedy", "loss"):
                line[field] = plus_minus([row[field] for row in chosen])
            for field in ("violations", "over-refusals"):
                if field in chosen[0]:
                    line[field] = plus_minus([rate(row[field]) for row in chosen], digits=2)
            lines.append(line)
    for row in select(rows, name="compressed")[:1]:
        names = dict.fromkeys(each["name"] for each in rows if each["name"].startswith("adapter "))
        for name in names:
            chosen = select(rows, name=name)
            shares = plus_minus([each["kind accuracy"] for each in chosen])
            before = plus_minus([each["kind accuracy before"] for each in chosen])
            words = f"task {name}, {chosen[0]['bytes'] / 1000:.0f} kB: that kind alone"
            lines.append(
                {"stage": words, "bits a weight": round(row["bits"], 2), "accuracy": f"{shares} (without it {before})"}
            )
    return lines


def safety_rows(rows: Sequence[Row]) -> list[Row]:
    """Violations and over-refusals before and after every stage, the requests of all seeds together."""
    lines = []
    for name, words in WORDS.items():
        if chosen := [row for row in select(rows, name=name) if "violations" in row]:
            lines.append({"stage": words, **pooled(chosen)})
    return lines


def committee_rows(rows: Sequence[Row]) -> list[Row]:
    """The committee's picks beside its best member's, a line a round."""
    lines = []
    for name in dict.fromkeys(row["name"] for row in rows if row["name"].startswith("itec-")):
        chosen = select(rows, name=name)
        line: Row = {"round": int(name.removeprefix("itec-")), "best member": chosen[0]["best"]}
        for who in ("committee", "one teacher", "best member"):
            line[f"{who}: pick right"] = plus_minus([row[who] for row in chosen])
            line[f"{who}: oracle"] = plus_minus([row[f"{who}, oracle"] for row in chosen])
        lines.append(line)
    return lines


def member_rows(rows: Sequence[Row], seed: int) -> list[Row]:
    """Every member of one seed, in the rounds' order."""
    rounds = [row for row in rows if row["name"].startswith("itec-") and row["seed"] == seed]
    return list({each["member"]: each for row in rounds for each in row["members"]}.values())


def post_claims(config: Config, rows: Sequence[Row]) -> list[Claim]:
    """What the laptop's seeds must show, paired by seed."""
    post = config.post
    how = f"share of answers right on {post.toy.held_out // 2} held-out toy instructions, {post.toy.draws} draws each"
    claims = []

    def above(
        words: str, name: str, other: str, field: str = "accuracy", how: str = how, paper: str | None = None
    ) -> None:
        ours, theirs = (select(rows, name=each) for each in (name, other))
        if ours and theirs:
            values, baseline = [row[field] for row in ours], [row[field] for row in theirs]
            claims.append(paired_claim(words, values, baseline, how, better="higher", paper=paper))

    above("rejection sampling above SFT", "rs", "sft")
    above("DPO above SFT", "dpo", "sft")
    above("MDLOO above SFT", "mdloo", "sft", paper="RL helps most in maths; no figure of this kind is given")
    same = f"{how}; the same prompts, draws and steps"
    above("MDLOO above PPO's clip at equal samples", "mdloo", "mdloo-clip", how=same)
    above("MDLOO above no leave-one-out at equal samples", "mdloo", "mdloo-mean", how=same)
    last = f"itec-{post.itec.rounds}"
    if chosen := select(rows, name=last):
        picked = f"share of picked answers that are right on held-out instructions, picks by the newest reward model, round {post.itec.rounds}"
        rivals = {
            "one teacher": ("iTeC committee above its best member", f"{post.itec.k} answers of each member"),
            "best member": ("iTeC committee above as many answers of its best member", "equal answers in all"),
        }
        for rival, (words, answers) in rivals.items():
            values, baseline = [row["committee"] for row in chosen], [row[rival] for row in chosen]
            claims.append(paired_claim(words, values, baseline, f"{picked}; {answers}", better="higher"))
    if chosen := [row for row in select(rows, name="reward") if "in order" in row]:
        claims.append(
            paired_claim(
                "reward model above chance",
                [row["in order"] for row in chosen],
                [0.5] * len(chosen),
                "share of held-out pairs of the fine-tuned model's own answers in the right order",
                better="higher",
            )
        )
    start = [row for row in select(rows, name="context") if "violations" in row]
    if start and config.post.safety.learned:
        claims.append(
            paired_claim(
                "safety examples in fine-tuning lower violations",
                [rate(row["violations"]) for row in select(rows, name="sft")],
                [rate(row["violations"]) for row in start],
                f"share of {start[0]['violations'][1]} held-out requests that the likeliest answer does not refuse, before and "
                "after fine-tuning",
            )
        )
    return claims + compression_claims(rows)


def compression_claims(rows: Sequence[Row]) -> list[Claim]:
    """Of the palettes, the recovery adapter and the task adapters."""
    claims = []
    small, back = select(rows, name="compressed"), select(rows, name="recovered")
    dense = [select(rows, name=row["of"], seed=row["seed"])[0] for row in small]
    chance = [
        statistics.fmean(
            each["loss"] for each in rows if each["name"].startswith("chance-") and each["seed"] == row["seed"]
        )
        for row in small
        if any(each["name"].startswith("chance-") for each in rows)
    ]
    how = "nats a token of validation text"
    if chance:
        bits = (
            f"{how}; {small[0]['bits']:.2f} bits a weight, the same budget; the baseline is the mean of random choices"
        )
        words = "2-bit matrices chosen by what they cost: loss below chance"
        claims.append(paired_claim(words, [row["loss"] for row in small], chance, bits))
    if small:
        claims.append(
            paired_claim(
                "recovery adapter brings back half of the loss",
                [row["loss"] for row in back],
                [(row["loss"] + before["loss"]) / 2 for row, before in zip(small, dense, strict=True)],
                f"{how}; the baseline lies half way between palettized and dense",
                paper="no significant loss at 3.5 bits with rank-16 adapters",
            )
        )
    if kinds := [row for row in rows if row["name"].startswith("adapter ")]:
        seeds = sorted({row["seed"] for row in kinds})
        means = {
            field: [statistics.fmean(row[field] for row in kinds if row["seed"] == seed) for seed in seeds]
            for field in ("kind accuracy", "kind accuracy before")
        }
        claims.append(
            paired_claim(
                "task adapters above the recovery adapter on their tasks",
                means["kind accuracy"],
                means["kind accuracy before"],
                "share of answers right on held-out instructions of the adapter's kind, mean over kinds",
                better="higher",
            )
        )
    return claims


def post_summary(config: Config, rows: Sequence[Row]) -> str:
    """In words, of the first seed."""
    first = {row["name"]: row for row in rows if row["seed"] == config.seeds[0]}
    best = first["compressed"]["of"]
    words = [
        f"Of the answers to toy instructions {first['sft']['accuracy']:.0%} were right after fine-tuning, "
        f"{first['rs']['accuracy']:.0%} after rejection sampling, {first['dpo']['accuracy']:.0%} after DPO, "
        f"{first['mdloo']['accuracy']:.0%} after MDLOO.",
        f"At {first['compressed']['bits']:.2f} bits a weight ({first['compressed']['projection bits']:.2f} of the projections) "
        f"the loss on text went from {first[best]['loss']:.3f} to {first['compressed']['loss']:.3f}, with the recovery adapter "
        f"to {first['recovered']['loss']:.3f}.",
    ]
    return " ".join(words)
