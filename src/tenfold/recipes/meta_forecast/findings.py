"""From the rows of all jobs to claims and sentences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

import numpy as np

from tenfold.clinical.planted_forecast import LOUD, SIGNAL
from tenfold.core.claims import Claim
from tenfold.core.statistics import paired_t, plus_minus, select
from tenfold.recipes.meta_forecast.config import ALONE, LEARNED, SIMULATED, Config, shown
from tenfold.recipes.meta_forecast.evaluation import Row, by_seed
from tenfold.recipes.meta_forecast.tables import METHODS, USES, labels_of, mass, percents_of, uses_of

PAPER = "The paper, on MIMIC-III: AUC-ROC of AutoSelect above supervised, pretrain (all) and co-training (Table 2, whose figures were not at hand)"  # fmt: skip


def make_claims(config: Config, rows: Sequence[Row]) -> list[Claim]:
    """The bars that the modes at hand allow, paired by seed."""
    claims: list[Claim | None] = []
    for cohort in config.cohort:
        own = select(rows, cohort=cohort)
        if cohort in SIMULATED:
            claims += _planted_claims(own, cohort)
        else:
            targets = list(dict.fromkeys(row["target"] for row in own))
            claims += _label_claims(select(own, target=targets[0]), cohort)
            for target in targets[1:]:
                claims += _transfer_claims(select(own, target=target), cohort, target)
    return [claim for claim in claims if claim is not None]


def _planted_claims(rows: Sequence[Row], cohort: str) -> list[Claim | None]:
    """Whether the weights find the planted tasks, and what that is worth with the encoder frozen."""
    rows = select(rows, percent=percents_of(rows)[0])
    mine = select(rows, mode="first_order")
    if not mine:
        return []
    weights = [row["weights"] for row in sorted(mine, key=lambda row: row["seed"])]
    how = f"{cohort}, weights after the last round of first_order"

    def of_weights(what: str, values: list[float], bar: list[float], *, lower: bool = False) -> Claim:
        return _claim(f"{cohort}: {what}", values, bar, how, cohort, lower=lower)

    count, names = len(weights), list(weights[0])
    loudest = max((names[task] for task in LOUD), key=lambda name: fmean(w[name] for w in weights))
    claims: list[Claim | None] = [
        of_weights("weight on tasks 0 to 3 at least .6", [mass(w, SIGNAL) for w in weights], [0.6] * count),
        of_weights("weight on loud tasks at most .15", [mass(w, LOUD) for w in weights], [0.15] * count, lower=True),
    ]
    for name in (names[task] for task in SIGNAL[:3]):
        values, bar = [w[name] for w in weights], [w[loudest] for w in weights]
        claims.append(of_weights(f"weight of {name} above every loud task's ({loudest})", values, bar))
    how = f"{cohort}, AUC-ROC of test subjects, encoder frozen"
    for other, use, words, raised in (
        ("pretrain", "frozen", "pretrain (all) + .10", _plus(0.10)),
        ("supervised", "end_to_end", "supervised (same labels) + .02", _plus(0.02)),
        ("oracle", "law", ".5 + .70 (oracle - .5)", lambda auc: 0.5 + 0.7 * (auc - 0.5)),
        ("oracle_subset", "frozen", "pretrain (tasks 0 to 3) - .05", _plus(-0.05)),
        ("first_order_unscaled", "frozen", "without scaled losses", _plus(0.0)),
    ):
        theirs = by_seed(select(rows, mode=other), use)
        name = f"{cohort}: first order at least {words}"
        claims.append(_paired(name, by_seed(mine, "frozen"), theirs, how, cohort, bar=raised))
    return claims


def _label_claims(rows: Sequence[Row], cohort: str) -> list[Claim | None]:
    """What the selection is worth as labels become fewer; for each use of the encoder."""
    claims: list[Claim | None] = []
    most = percents_of(rows)[0]

    def auc(mode: str, percent: float, use: str) -> list[float]:
        return by_seed(select(rows, mode=mode, percent=percent), use)

    if cohort == "death48" and (values := auc("supervised", 100.0, "end_to_end")):
        how = f"{cohort}, AUC-ROC of {len(values)} seeds' supervised LSTM"
        claims.append(_claim(f"{cohort}: supervised LSTM at least .76, 100 % of labels", values, [0.76] * len(values), how, cohort))  # fmt: skip
    for use in (use for use in ("frozen", "finetuned") if any(use in row["scores"] for row in rows)):
        words = f"first order ({USES[use]})"
        how = f"{cohort}, AUC-ROC of test subjects, label subsets by seed"
        for percent, gain in ((1.0, 0.02), (10.0, 0.0)):
            name = f"{cohort}: {words}, {percent:g} % of labels, at least supervised" + (
                f" + {gain:.2f}" if gain else ""
            )
            theirs = auc("supervised", percent, "end_to_end")
            claims.append(_paired(name, auc("first_order", percent, use), theirs, how, cohort, PAPER, _plus(gain)))
            name = f"{cohort}: {words}, {percent:g} % of labels, at least pretrain (all) - .005"
            theirs = auc("pretrain", percent, use)
            claims.append(_paired(name, auc("first_order", percent, use), theirs, how, cohort, PAPER, _plus(-0.005)))
        best = best_of(select(rows, percent=most), [mode for mode in METHODS if mode not in LEARNED])
        if most == 100.0 and best is not None:
            name = f"{cohort}: {words}, 100 % of labels, within .01 of the best other mode ({METHODS[best[0]]})"
            theirs = auc(best[0], most, best[1])
            claims.append(_paired(name, auc("first_order", most, use), theirs, how, cohort, bar=_plus(-0.01)))
    neural = best_of(select(rows, percent=10.0), [mode for mode in METHODS if ALONE.get(mode) != "summaries"])
    if neural is not None:
        name = (
            f"{cohort}: best network ({METHODS[neural[0]]}, {USES[neural[1]]}), 10 % of labels, at least logistic - .01"
        )
        theirs = auc("logistic", 10.0, "summaries")
        how = f"{cohort}, AUC-ROC; the network is picked by its test figure, which favours it"
        claims.append(_paired(name, auc(neural[0], 10.0, neural[1]), theirs, how, cohort, bar=_plus(-0.01)))
    return claims


def best_of(rows: Sequence[Row], modes: Sequence[str]) -> tuple[str, str] | None:
    """The mode and use of the highest mean AUC-ROC."""
    found = {
        (mode, use): fmean(by_seed(select(rows, mode=mode), use))
        for mode in modes
        if mode != "oracle"
        for use in uses_of(select(rows, mode=mode))
    }
    return max(found, key=lambda key: found[key]) if found else None


def _transfer_claims(rows: Sequence[Row], cohort: str, target: str) -> list[Claim | None]:
    """Weights of the experiment's target, used for another one."""
    claims: list[Claim | None] = []
    for percent in percents_of(rows):
        here = select(rows, percent=percent)
        for use in ("frozen", "finetuned"):
            name = f"{cohort}: {target} with transferred weights ({USES[use]}), {shown(percent)} % of labels, above random tasks, as many"
            ours, theirs = (by_seed(select(here, mode=mode), use) for mode in ("transferred", "random_draw"))
            how = f"{cohort}, AUC-ROC of {target}; random selections of the weights' effective size, mean of the draws of a seed"
            paper = "the selection transfers to unseen targets (order only; figures not at hand)"
            claims.append(_paired(name, ours, theirs, how, cohort, paper))
    return claims


Bar = Callable[[float], float]


def _plus(by: float) -> Bar:
    return lambda rival: rival + by


def _paired(
    name: str,
    values: Sequence[float],
    rivals: Sequence[float],
    how: str,
    cohort: str,
    paper: str | None = None,
    bar: Bar | None = None,
) -> Claim | None:
    """A claim that values are higher than the bar laid on those of a rival; None where a side was not trained."""
    if not values or len(values) != len(rivals):
        return None
    if bar is None:
        return _claim(name, values, rivals, how, cohort, paper)
    how = f"{how}; the rival has {fmean(rivals):.4f}, the baseline is the bar laid on that"
    return _claim(name, values, [bar(rival) for rival in rivals], how, cohort, paper)


def _claim(
    name: str,
    values: Sequence[float],
    baseline: Sequence[float],
    how: str,
    cohort: str,
    paper: str | None = None,
    *,
    lower: bool = False,
) -> Claim:
    ci95 = paired_t(np.subtract(values, baseline)).ci95 if len(values) > 1 else (float("nan"), float("nan"))
    return Claim(
        name,
        fmean(values),
        fmean(baseline),
        "lower" if lower else "higher",
        ci95,
        len(values),
        how,
        paper,
        cohort in SIMULATED,
    )


def summary(config: Config, rows: Sequence[Row]) -> str:
    """The run in words."""
    words = []
    for cohort in config.cohort:
        own = select(rows, cohort=cohort)
        target = own[0]["target"]
        own = select(own, target=target)
        what = "simulated subjects" if cohort in SIMULATED else "subjects"
        for percent in dict.fromkeys((percents_of(own)[0], percents_of(own)[-1])):
            here = select(own, percent=percent)
            each = [
                f"{METHODS[mode]} ({USES[use]}) {plus_minus(by_seed(select(here, mode=mode), use))}"
                for mode in ("first_order", "pretrain", "cotrain", "supervised", "oracle")
                for use in uses_of(select(here, mode=mode))
            ]
            if each:
                words.append(f"{cohort} ({what}), {target}, {shown(percent)} % of labels ({labels_of(here)}), AUC-ROC: {'; '.join(each)}.")  # fmt: skip
    seeds = f"± is half the 95 % t interval over {len(config.seed)} seeds." if len(config.seed) > 1 else "One seed."
    return " ".join([*words, seeds])


def note(config: Config, cohort: str) -> str:
    """The conditions of a cohort's tables."""
    settings = config.simulated if cohort in SIMULATED else config.select
    words = [
        f"Mean ± half the 95 % t interval over {len(config.seed)} seeds." if len(config.seed) > 1 else "One seed.",
        "Labels: those of the training part + those of the validation part, which are learned from too." if settings.outer_labels == "subsampled"
        else "All validation labels are read, whatever the share (as the released code does).",
        "Frozen: a logistic layer on the pretrained encoder; fine-tuned: both are trained.",
    ]  # fmt: skip
    if cohort in SIMULATED:
        words.append(
            "Simulator: tasks 0 to 2 tell of the outcome, 3 is a decoy; the oracle is the chance by its own law."
        )
    return " ".join(words)
