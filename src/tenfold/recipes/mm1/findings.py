"""Tables and claims of a run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any, Literal

from tenfold.core.claims import Claim
from tenfold.core.statistics import paired_t, plus_minus, select, wilson
from tenfold.recipes.mm1.config import MAIN, Config, settings
from tenfold.recipes.mm1.published import AXIS

Row = dict[str, Any]
READING = "task=reading+tokens=16"
READS = 10.0  # points above blind answers from which on a model is said to read its pictures
EASY_MAJORITY = 67.0  # per cent of easy-VQA's test questions, by the most frequent answer to each question


def figure(rows: Sequence[Row], cell: str, read: Callable[[Row], float]) -> list[float]:
    """A figure of a cell for every seed; empty where the cell was not run or has no such figure."""
    try:
        return [read(row) for row in select(rows, cell=cell)]
    except KeyError:
        return []


def shot(task: str, shots: int) -> Callable[[Row], float]:
    """Reads a few-shot figure."""
    return lambda row: float(row["few_shot"][task][str(shots)])


def tuned(task: str, name: str = "all") -> Callable[[Row], float]:
    """Reads a figure of a tuned task."""
    return lambda row: float(row["tuned"][task][name])


def cell_table(config: Config, rows: Sequence[Row]) -> list[Row]:
    """A line a cell: few-shot means, every task, text, tuning, the paper's word on the axis."""
    lines = []
    for cell in config.cells:
        own = select(rows, cell=cell)
        line: Row = {"cell": cell}
        for shots in config.evaluation.shots:
            tasks = list(own[0]["few_shot"])
            if tasks:
                means = [statistics.fmean(row["few_shot"][task][str(shots)] for task in tasks) for row in own]
                line[f"mean, {shots} shots"] = plus_minus(means, 1)
        for task in own[0]["few_shot"]:
            name = {"caption": "caption, CIDEr × 100", "attr": "attr, %", "vqa": "vqa, %"}[task]
            line[f"{name}, {'/'.join(map(str, config.evaluation.shots))} shots"] = " / ".join(
                plus_minus(figure(rows, cell, shot(task, shots)), 1) for shots in config.evaluation.shots
            )
        if "text_bpb" in own[0]:
            line["text, bits a byte"] = plus_minus([row["text_bpb"] for row in own], 3)
            line["text score"] = plus_minus([100 * (1 - row["text_bpb"] / 8) for row in own], 1)
        for task in own[0]["tuned"]:
            line[f"tuned: {task}, %"] = plus_minus(figure(rows, cell, tuned(task)), 1)
        line["weights"] = own[0]["parameters"]
        line["seconds"] = round(statistics.fmean(row["seconds"] for row in own))
        line["paper"] = "; ".join(AXIS[axis] for axis in settings(cell) if AXIS[axis])
        lines.append(line)
    return lines


def tuned_table(config: Config, rows: Sequence[Row]) -> list[Row]:
    """A line a cell and figure of a tuned task, in per cent."""
    return [
        {"cell": cell, "task": task, "questions": name, "accuracy, %": plus_minus(figure(rows, cell, tuned(task, name)), 1)}
        for cell in config.cells
        for task, figures in select(rows, cell=cell)[0]["tuned"].items()
        for name in figures
    ]  # fmt: skip


def make_claims(config: Config, rows: Sequence[Row], encoders: Sequence[Row]) -> list[Claim]:
    """Every comparison that was run, paired by seed."""
    made = _Claims()
    own = MAIN if MAIN in config.cells else config.cells[0]
    most = max(config.evaluation.shots)
    few = f"attr: {config.evaluation.queries} held-out scenes, greedy"
    main = figure(rows, MAIN, shot("attr", most))
    made.add(f"{most} shots above 0 shots + 30 points on attr", figure(rows, own, shot("attr", most)), figure(rows, own, shot("attr", 0)), 30, few)  # fmt: skip
    made.add(f"45/45/10 above captions alone + 20 points, {most} shots on attr", main, figure(rows, "mix=100/0/0", shot("attr", most)), 20, few, paper="with half interleaved 8-shot above 61, without 45.0")  # fmt: skip
    made.add(f"45/45/10 above rules redrawn for each picture + 20 points, {most} shots on attr", main, figure(rows, "mix=control", shot("attr", most)), 20, few)  # fmt: skip
    made.add("captions alone not below 45/45/10: zero-shot captions", figure(rows, "mix=100/0/0", shot("caption", 0)), figure(rows, MAIN, shot("caption", 0)), 0, "CIDEr × 100 of held-out scenes", paper="0-shot 25.8 → 39.3 from 0 to 100 % captions")  # fmt: skip
    bpb = lambda row: float(row["text_bpb"])  # noqa: E731
    made.below("text at 10 %: bits a byte at most 0.9 of those of 50/50/0", figure(rows, MAIN, bpb), [0.9 * b for b in figure(rows, "mix=50/50/0", bpb)], "held-out lines of text")  # fmt: skip
    for task in config.sft.tasks:
        made.add(f"experts above dense after tuning: {task}", figure(rows, "decoder=moe", tuned(task)), figure(rows, MAIN, tuned(task)), 0, "equal active weights in feed-forward layers", paper="MoE ahead of dense on most benchmarks")  # fmt: skip
    coarse, fine, tiles = (figure(rows, f"{READING}+{how}", tuned("reading")) for how in ("resolution=48", "resolution=96", "resolution=48+tiles=4"))  # fmt: skip
    made.add("reading at 96 pixels above that at 48 + 10 points", fine, coarse, 10, "signs of three letters", paper="224 → 336 pixels: about +3 points")  # fmt: skip
    made.add("reading with 4 tiles above the whole picture alone + 10 points", tiles, coarse, 10, "signs of three letters", paper="1344 pixels: +15 % relative")  # fmt: skip
    others = [figure(rows, f"{READING}+resolution=96+connector={name}", tuned("reading")) for name in ("avg", "attn")]
    spread = [max(each) - min(each) for each in zip(fine, *others, strict=True)] if fine and all(others) else []
    effect = [a - b for a, b in zip(fine, coarse, strict=True)] if fine and coarse else []
    made.below("connectors differ by less than 48 and 96 pixels do: reading, points", spread, effect, "best less worst of avg, attn, cabs at 96 pixels", paper="connector type hardly matters", simulator=True)  # fmt: skip
    for family in ("position", "count"):
        made.add(f"16 tokens above 4: {family}", figure(rows, "task=scenes+tokens=16+resolution=48", tuned("scenes", family)), figure(rows, "task=scenes+tokens=4+resolution=48", tuned("scenes", family)), 0, "questions about scenes")  # fmt: skip
    made.add("several pictures above the first alone", figure(rows, MAIN, tuned("several")), figure(rows, MAIN, tuned("several", "first picture alone")), 0, "which has more, how many in all, odd one out")  # fmt: skip
    made.add("several pictures above none", figure(rows, MAIN, tuned("several")), figure(rows, MAIN, tuned("several", "without pictures")), 0, "which has more, how many in all, odd one out")  # fmt: skip
    made.add(f"worked steps above direct answers, {most} shots over several pictures", figure(rows, MAIN, tuned("several", f"{most} shots, steps")), figure(rows, MAIN, tuned("several", f"{most} shots, direct")), 0, "demonstrations of the same family", paper="MathVista: 39.4 0-shot, 44.4 8-shot")  # fmt: skip
    easy = figure(rows, MAIN, tuned("easy_vqa"))
    made.add(
        "easy-VQA above the majority answer", easy, [EASY_MAJORITY] * len(easy), 0, "test questions; the goal is 95 %"
    )
    if encoders:
        hits = [100 * row["name_R@5"] for row in encoders]
        made.add("names find emoji never trained on: R@5 above 25 %", hits, [25.0] * len(hits), 0, f"{encoders[0]['pool']} emoji, chance {500 / encoders[0]['pool']:.1f} %", simulator=False, asked=encoders[0]["pool"])  # fmt: skip
    return made.claims


class _Claims:
    """Gathers claims; those whose cells were not run are left out."""

    def __init__(self) -> None:
        self.claims: list[Claim] = []

    def add(
        self,
        name: str,
        values: Sequence[float],
        rival: Sequence[float],
        room: float,
        how: str,
        *,
        paper: str | None = None,
        simulator: bool = True,
        asked: int | None = None,
    ) -> None:
        """A figure above a rival's by `room`; asked: see `_claim`."""
        self._claim(name, values, [value + room for value in rival], "higher", how, paper, simulator, asked)

    def below(
        self,
        name: str,
        values: Sequence[float],
        rival: Sequence[float],
        how: str,
        *,
        paper: str | None = None,
        simulator: bool = False,
    ) -> None:
        """A figure below a rival's."""
        self._claim(name, values, rival, "lower", how, paper, simulator)

    def _claim(
        self,
        name: str,
        values: Sequence[float],
        rival: Sequence[float],
        better: Literal["higher", "lower"],
        how: str,
        paper: str | None,
        simulator: bool,
        asked: int | None = None,
    ) -> None:
        """Keep a claim; asked: where every seed is asked the same few, as many, the interval is no narrower than Wilson's."""
        if not values or len(values) != len(rival):
            return
        ci95 = (math.nan, math.nan)
        if len(values) > 1:
            ci95 = paired_t([a - b for a, b in zip(values, rival, strict=True)]).ci95
        value, baseline = statistics.fmean(values), statistics.fmean(rival)
        if asked and len(values) > 1:
            low, high = wilson(round(value / 100 * asked), asked).ci95
            ci95 = min(ci95[0], 100 * low - baseline), max(ci95[1], 100 * high - baseline)
        self.claims.append(Claim(name, value, baseline, better, ci95, len(values), how, paper, simulator))


def summary(config: Config, rows: Sequence[Row]) -> str:
    """The run in words."""
    first = config.cells[0]
    own = select(rows, cell=first)
    who = config.language.base or f"A decoder of {config.language.dim} x {config.language.layers}"
    words = [f"{who} reads pictures of {config.vision.size} pixels through {config.connector.tokens} tokens ({config.connector.name})."]  # fmt: skip
    if own[0]["few_shot"]:
        ways = ", ".join(
            f"{plus_minus(figure(rows, first, shot('attr', shots)), 1)} % after {shots}"
            for shots in config.evaluation.shots
        )
        words.append(
            f"{first}, {config.pretrain.steps} steps: it continues a hidden rule (colour, shape, size or column) of pictures that it never "
            f"saw right in {ways} demonstrations. Who knew the rule and guessed blindly among its values would be right in 32 %."
        )
    for task, figures in own[0]["tuned"].items():
        words.append(
            f"Tuned on {task}: {figures['all']:.0f} % right, {figures['without pictures']:.0f} % where the pictures are left out (first seed)."
        )
        if figures["all"] < max(figures["without pictures"], figures.get("most frequent answers", 0)) + READS:
            words.append("That is hardly better than guessing from the question: such answers say nothing about the picture yet; train longer.")  # fmt: skip
    return " ".join(words)
