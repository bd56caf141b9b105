"""Next-token loss of a language model."""

# Shape legend: N tokens, V vocabulary, B batch, T sequence

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from tenfold.nn.moe import moe_layers

LMLoss = Callable[[nn.Module, Mapping[str, Tensor]], tuple[Tensor, dict[str, Tensor]]]
Lesson = Callable[[Tensor, Tensor, Mapping[str, Tensor]], Tensor]

IGNORED = -100


def lm_loss(z_loss: float = 1e-6) -> LMLoss:
    """Mean cross-entropy over the targets, plus the z-loss of the output layer and the auxiliary loss of its experts.

    Args:
        z_loss: weight of mean(logsumexp(logits)²) over the same targets; the default is AFM's.
    Returns:
        loss(model, batch) -> (scalar, metrics). The batch holds "ids" and "targets", int64 (B, T), targets -100 left
        out, and where rows are packed "segments" and "positions". Metrics, detached: "ce" in nats a target, "weight"
        the number of targets, with z_loss "z" (the mean square), with experts "aux" (already weighted).
    Raises:
        ValueError: z_loss negative; batches without ids or targets.
    """
    if not z_loss >= 0:
        raise ValueError(f"z_loss: got {z_loss}, need 0 or more")
    return with_lesson(None, 0.0, z_loss)


def with_lesson(lesson: Lesson | None, lesson_weight: float, z_loss: float) -> LMLoss:
    """`lm_loss` with (1 - w) of its cross-entropy and w of a further loss a target, such as a teacher's.

    Args:
        lesson: of logits_NV, their logsumexp_N and the batch, the loss of every target (N,), ignored ones included.
        lesson_weight: w in [0, 1]; with 0 the lesson is not asked.
        z_loss: as in `lm_loss`.
    Returns:
        a loss as `lm_loss` gives; its metrics also hold "taught", the lesson's mean.
    """

    def loss(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        if missing := {"ids", "targets"} - set(batch):
            raise ValueError(f"batch: no {', '.join(sorted(missing))}; got {', '.join(sorted(batch))}")
        logits = model(batch["ids"], positions=batch.get("positions"), segments=batch.get("segments"))
        logits_NV, targets_N = logits.flatten(0, -2), batch["targets"].flatten()
        ce_N, lse_N = token_losses(logits_NV, targets_N)
        weight = (targets_N != IGNORED).sum()
        # A rank whose share of the batch has no target adds nothing; it must not divide by zero.
        count = weight.clamp(min=1)
        total = ce = ce_N.sum() / count
        metrics = {"ce": ce.detach(), "weight": weight}
        if lesson is not None and lesson_weight:
            taught = lesson(logits_NV, lse_N, batch).where(targets_N != IGNORED, 0).sum() / count
            total = (1 - lesson_weight) * ce + lesson_weight * taught
            metrics["taught"] = taught.detach()
        if z_loss:
            z = lse_N.square().sum() / count
            total, metrics["z"] = total + z_loss * z, z.detach()
        # Not `collect_aux`, which also works out statistics (about an eighth of a layer's time) and clears `last`.
        layers = [layer.last.aux_loss for _, layer in moe_layers(model) if layer.last is not None]
        if layers:
            aux = torch.stack(layers).sum()
            total, metrics["aux"] = total + aux, aux.detach()
        return total, metrics

    return loss


def token_losses(logits_NV: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy and logsumexp of every row, both 0 where the target is -100.

    Args:
        logits_NV: any float type; 16-bit logits are reduced in float32.
        targets_N: int64 in 0..V-1 or -100.
    Returns:
        ce_N in nats, lse_N.
    Raises:
        ValueError: a target outside the vocabulary (checked on the CPU; accelerators stop by themselves).
    """
    if torch.compiler.is_compiling():
        wide_NV = _wide(logits_NV)
        return F.cross_entropy(wide_NV, targets_N, reduction="none"), wide_NV.logsumexp(-1) * (targets_N != IGNORED)
    if targets_N.is_cpu and targets_N.numel():
        high = int(targets_N.max())
        low = int(targets_N.where(targets_N != IGNORED, 0).min())
        if low < 0 or high >= logits_NV.shape[-1]:
            raise ValueError(
                f"targets: got {low if low < 0 else high}, need 0..{logits_NV.shape[-1] - 1} or {IGNORED} (left out)"
            )
    return _CrossEntropy.apply(logits_NV, targets_N)


class _CrossEntropy(torch.autograd.Function):
    """Keeps nothing of the logits' size but the logits, and makes one such buffer, their gradient.

    torch's own keeps all log-probabilities for the backward. Here they are made again from the logits, a few rows
    at a time that stay in the processor's cache: half the time at 1536 tokens and a vocabulary of 4096.
    """

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
        lse_N = torch.cat([_wide(part).logsumexp(-1) for part in logits_NV.split(_rows(logits_NV))])
        kept_N = targets_N != IGNORED
        index_N = targets_N.where(kept_N, 0)
        chosen_N = logits_NV.gather(1, index_N.unsqueeze(1)).squeeze(1).to(lse_N.dtype)
        ctx.save_for_backward(logits_NV, lse_N, index_N, kept_N)
        return (lse_N - chosen_N).where(kept_N, 0), lse_N.where(kept_N, 0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ce_N: Tensor, grad_lse_N: Tensor) -> tuple[Tensor, None]:
        logits_NV, lse_N, index_N, kept_N = ctx.saved_tensors
        grad_N = ((grad_ce_N + grad_lse_N) * kept_N).unsqueeze(1)
        grad_NV = torch.empty_like(logits_NV)
        rows = _rows(logits_NV)
        parts = (tensor.split(rows) for tensor in (logits_NV, lse_N.unsqueeze(1), grad_N, grad_NV))
        for logits, lse, grad, out in zip(*parts, strict=True):
            if out.dtype == lse.dtype:
                torch.sub(logits, lse, out=out).exp_().mul_(grad)
            else:
                out.copy_((logits - lse).exp_().mul_(grad))
        one_hot = -(grad_ce_N * kept_N).unsqueeze(1)
        grad_NV.scatter_add_(1, index_N.unsqueeze(1), one_hot.to(grad_NV.dtype))
        return grad_NV, None


def _rows(logits_NV: Tensor) -> int:
    """Rows handled at a time: 1 MB of float32 on a processor with caches, more where each piece is a kernel launch."""
    return max(1, (2**18 if logits_NV.is_cpu else 2**26) // logits_NV.shape[-1])


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
