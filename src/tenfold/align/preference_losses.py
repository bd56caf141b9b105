"""Learning from preferences without a reward model: DPO and IPO."""

# Shape legend: P pairs

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tenfold.align.logprobs import Reference, auxiliary, reference_logprobs, sequence_logprobs
from tenfold.align.samples import Batch
from tenfold.core.fit import Loss


def dpo_loss(beta: float = 0.1, *, reference: Reference | None = None) -> Loss:
    """-ln σ(β h), h = (ln π - ln π_ref)(chosen) - (ln π - ln π_ref)(rejected), mean over pairs.

    Dropout blurs h: train a model built with `dropout=0`.

    Args:
        beta: β > 0.
        reference: the frozen reference model; "adapters off" is the model itself without its adapters; None takes the
            log-probabilities that the batch keeps (`with_references`).
    Returns:
        loss(model, batch) for `collate_pairs`; metrics: "weight", pairs; "accuracy", share of pairs with h > 0; "margin",
        β h; "chosen" and "rejected", β (ln π - ln π_ref) of either response.
    Source: Rafailov et al. 2023, arXiv 2305.18290, Eq. 7.
    """
    return _pair_loss(beta, reference, lambda h_P: -F.logsigmoid(beta * h_P))


def ipo_loss(beta: float = 0.1, *, reference: Reference | None = None, per_token: bool = False) -> Loss:
    """(h - 1/(2β))², h as in `dpo_loss`, mean over pairs.

    Args:
        beta: β > 0, the paper's τ.
        reference: as in `dpo_loss`.
        per_token: ln π and ln π_ref are means over the response's tokens, as in trl, and not sums: the target 1/(2β)
            then means the same for long and short responses.
    Returns:
        as `dpo_loss`.
    Source: Azar et al. 2023, arXiv 2310.12036, Eq. 17.
    """
    return _pair_loss(beta, reference, lambda h_P: (h_P - 1 / (2 * beta)).square(), per_token)


def _pair_loss(
    beta: float, reference: Reference | None, of_margin: Callable[[Tensor], Tensor], per_token: bool = False
) -> Loss:
    if not 0 < beta < math.inf:
        raise ValueError(f"beta: got {beta}, need a finite number > 0")

    def loss(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Any]]:
        sums, counts = sequence_logprobs(model, batch)
        extra, metrics = auxiliary(model)
        ratios = sums - reference_logprobs(model, batch, reference).to(sums)
        chosen_P, rejected_P = (ratios / counts.clamp(min=1) if per_token else ratios).chunk(2)
        h_P = chosen_P - rejected_P
        with torch.no_grad():
            metrics |= {
                "weight": torch.tensor(len(h_P)),
                "accuracy": (h_P > 0).float().mean(),
                "margin": beta * h_P.mean(),
                "chosen": beta * chosen_P.mean(),
                "rejected": beta * rejected_P.mean(),
            }
        return of_margin(h_P).mean() + extra, metrics

    return loss
