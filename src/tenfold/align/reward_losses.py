"""What a reward model learns: the order of two responses, with a label as soft as the preference was, and their grades."""

# Shape legend: P pairs, G grades

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tenfold.align.logprobs import auxiliary
from tenfold.align.preference_data import LEVELS
from tenfold.align.reward_model import Judgement
from tenfold.align.samples import Batch
from tenfold.core.fit import Loss
from tenfold.lm.loss import IGNORED

Ranking = Literal["soft", "bradley_terry", "margin"]

SOFT_LABELS = (0.95, 0.85, 0.75, 0.65)  # of the four levels, AFM
MARGINS = (1.0, 2 / 3, 1 / 3, 0.0)  # of the four levels, Llama 2


def reward_loss(
    levels: Sequence[float] = SOFT_LABELS,
    grade_weight: float = 0.1,
    *,
    ranking: Ranking = "soft",
    margins: Sequence[float] = MARGINS,
) -> Loss:
    """The ranking loss of each pair plus λ times the cross-entropy of the grades of its two responses, mean over pairs.

    Args:
        levels: of each of `LEVELS`, the probability p that its chosen response is the better one.
        grade_weight: λ >= 0. The sum goes over the four grades and both responses; unknown grades add 0.
        ranking: "soft" labels by level; "bradley_terry", p = 1 at every level; "margin", by level.
        margins: m of each level for "margin".
    Returns:
        loss(model, batch) for a `RewardModel` and `collate_pairs`; metrics: "weight", pairs; "rank"; "grades", the sum of
        cross-entropies a pair; "accuracy", share of pairs whose chosen response scores higher; "margin", r_c - r_r.
    Raises:
        ValueError: settings out of range; a level or grade in the batch that there is not.
    Source: Gunter et al. 2024, arXiv 2407.21075 (soft labels, grades); Touvron et al. 2023, arXiv 2307.09288, Eq. 2 (margin).
    """
    if ranking not in get_args(Ranking):
        raise ValueError(f"ranking: got {ranking!r}, need one of {', '.join(get_args(Ranking))}")
    if len(levels) != len(LEVELS) or not all(0 <= p <= 1 for p in levels):
        raise ValueError(f"levels: got {tuple(levels)}, need {len(LEVELS)} probabilities")
    if len(margins) != len(LEVELS) or not all(math.isfinite(m) and m >= 0 for m in margins):
        raise ValueError(f"margins: got {tuple(margins)}, need {len(LEVELS)} numbers from 0")
    if not 0 <= grade_weight < math.inf:
        raise ValueError(f"grade_weight: got {grade_weight}, need a finite number from 0")

    def loss(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Any]]:
        judged = cast(Judgement, model(batch))
        chosen_P, rejected_P = judged.score_B.chunk(2)
        gap_P, level_P = chosen_P - rejected_P, batch["level"]
        if ranking == "soft":
            ranked_P = soft_label_loss(gap_P, gap_P.new_tensor(levels)[level_P])
        elif ranking == "margin":
            ranked_P = soft_label_loss(gap_P - gap_P.new_tensor(margins)[level_P], torch.ones_like(gap_P))
        else:
            ranked_P = soft_label_loss(gap_P, torch.ones_like(gap_P))
        grades_P = sum(grade_loss(judged.grades_BG3, batch["grades"]).chunk(2))
        rank, grades = ranked_P.mean(), cast(Tensor, grades_P).mean()
        extra, metrics = auxiliary(model)
        return rank + grade_weight * grades + extra, {
            "weight": len(gap_P),
            "rank": rank.detach(),
            "grades": grades.detach(),
            "accuracy": (gap_P > 0).float().mean(),
            "margin": gap_P.detach().mean(),
            **metrics,
        }

    return loss


def soft_label_loss(gap: Tensor, label: Tensor) -> Tensor:
    """-p ln σ(d) - (1 - p) ln σ(-d), elementwise, of the difference d = r_c - r_r of two rewards and the label p."""
    return label * F.softplus(-gap) + (1 - label) * F.softplus(gap)


def grade_loss(logits_BG3: Tensor, grades_BG: Tensor) -> Tensor:
    """Cross-entropy of each response's grades, summed over the grades, (B,); grades of -100 add 0."""
    losses_BG = F.cross_entropy(logits_BG3.flatten(0, 1), grades_BG.flatten(), ignore_index=IGNORED, reduction="none")
    return losses_BG.view(grades_BG.shape).sum(1)
