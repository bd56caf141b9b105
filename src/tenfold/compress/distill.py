"""Distillation: a student learns from a teacher's next token, or its whole distribution, beside the text's own."""

# Shape legend: N tokens, V vocabulary, B batch, T sequence

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tenfold.core.atomic import write_atomic
from tenfold.lm.decoder import Decoder
from tenfold.lm.loglikelihood import scoring_mode
from tenfold.lm.loss import LMLoss, with_lesson

Batch = Mapping[str, Tensor]
LABELS = "teacher_top1"  # name of the teacher's labels in a batch


def distill_top1_loss(
    teacher: Decoder | None = None,
    teacher_weight: float = 0.9,
    *,
    z_loss: float = 0.0,
    cache: Path | None = None,
) -> LMLoss:
    """(1 - w) · cross-entropy of the true token + w · cross-entropy of the teacher's likeliest token.

    Args:
        teacher: any decoder with the student's vocabulary; runs in evaluation mode, without gradients. None takes the
            labels from the batch: "teacher_top1", int64 (B, T), as `top1_labels` gives.
        teacher_weight: w in [0, 1]; with 0 no teacher is asked.
        z_loss: weight of mean(logsumexp(logits)²) over the same targets.
        cache: folder that keeps the teacher's labels; a batch met again costs no forward pass of the teacher.
    Returns:
        loss(model, batch) -> (scalar, metrics), the batch as in `lm_loss`. Metrics, detached: "ce" of the true tokens
        and "taught", what the teacher's cost, both in nats a target; "weight", the number of targets; with z_loss "z",
        with experts "aux".
    Raises:
        ValueError: w outside [0, 1], z_loss negative, a teacher with another vocabulary, batches without labels.
    Source: Gunter et al. 2024, arXiv 2407.21075 (w = 0.9).
    """
    _check(teacher_weight, z_loss)
    if cache is not None and teacher is None:
        raise ValueError("cache: got a folder without a teacher, need both")
    labels_of = CachedLabels(teacher, cache) if teacher is not None and cache is not None else None

    def taught(logits_NV: Tensor, lse_N: Tensor, batch: Batch) -> Tensor:
        _check_vocabulary(teacher, logits_NV)
        if labels_of is not None:
            labels = labels_of(batch)
        elif teacher is not None:
            labels = top1_labels(teacher, batch)
        elif LABELS in batch:
            labels = batch[LABELS]
        else:
            raise ValueError(f"batch: no {LABELS}; add the teacher's labels, or give the loss a teacher")
        return lse_N - logits_NV.gather(1, labels.reshape(-1, 1)).squeeze(1).to(lse_N.dtype)

    return with_lesson(taught, teacher_weight, z_loss)


def distill_kl_loss(
    teacher: Decoder, teacher_weight: float = 0.9, *, temperature: float = 1.0, z_loss: float = 0.0
) -> LMLoss:
    """(1 - w) · cross-entropy of the true token + w · τ² · KL(teacher at τ ‖ student at τ): soft targets.

    Args:
        teacher, teacher_weight, z_loss: as in `distill_top1_loss`.
        temperature: τ > 0; both sets of logits are divided by it.
    Returns:
        loss(model, batch) -> (scalar, metrics); as `distill_top1_loss`; "taught" is τ² KL.
    Raises:
        ValueError: as `distill_top1_loss`; temperature not above 0.
    Source: Hinton et al. 2015, arXiv 1503.02531, Section 2.
    """
    _check(teacher_weight, z_loss)
    if not temperature > 0:
        raise ValueError(f"temperature: got {temperature}, need > 0")

    def taught(logits_NV: Tensor, lse_N: Tensor, batch: Batch) -> Tensor:
        _check_vocabulary(teacher, logits_NV)
        return temperature**2 * kl_divergence(logits_NV, teacher_logits(teacher, batch).flatten(0, -2), temperature)

    return with_lesson(taught, teacher_weight, z_loss)


def teacher_logits(teacher: Decoder, batch: Batch) -> Tensor:
    """(B, T, V) logits in evaluation mode, without gradients and without expert capacity."""
    with torch.no_grad(), scoring_mode(teacher):
        return teacher(batch["ids"], positions=batch.get("positions"), segments=batch.get("segments"))


def top1_labels(teacher: Decoder, batch: Batch) -> Tensor:
    """The teacher's likeliest next token at every position, int64 (B, T)."""
    return teacher_logits(teacher, batch).argmax(-1)


class CachedLabels:
    """`top1_labels`, kept on disk under a hash of the teacher's shape and weights and of all the batch's inputs.

    Args:
        teacher: its weights are hashed once, now; they must not change afterwards.
        folder: made if absent; several processes may share it.
    """

    def __init__(self, teacher: Decoder, folder: Path) -> None:
        self.teacher, self.folder = teacher, folder
        self._dtype = np.dtype("<u2" if teacher.cfg.vocab_size <= 1 << 16 else "<u4")
        digest = hashlib.sha256(repr(teacher.cfg).encode())
        _update(digest, teacher.state_dict())
        self._teacher = digest.digest()

    def __call__(self, batch: Batch) -> Tensor:
        """int64 (B, T), on the device of the ids."""
        ids = batch["ids"]
        digest = hashlib.sha256(self._teacher)
        _update(digest, {name: batch[name] for name in ("ids", "positions", "segments") if name in batch})
        name = digest.hexdigest()
        path = self.folder / name[:2] / f"{name[:32]}.bin"
        data = path.read_bytes() if path.is_file() else b""
        if len(data) == ids.numel() * self._dtype.itemsize:  # a file of another size is damaged, and made again
            labels = np.frombuffer(data, self._dtype).astype(np.int64).reshape(ids.shape)
            return torch.from_numpy(labels).to(ids.device)
        fresh = top1_labels(self.teacher, batch)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, fresh.cpu().numpy().astype(self._dtype).tobytes())
        return fresh


def kl_divergence(student_NV: Tensor, teacher_NV: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(softmax(teacher / τ) ‖ softmax(student / τ)) of every row, (N,), in nats.

    A few rows at a time, made again in the backward: no probabilities of the logits' size are kept.
    """
    rows = max(1, (2**18 if student_NV.is_cpu else 2**26) // student_NV.shape[-1])
    pairs = zip(student_NV.split(rows), teacher_NV.split(rows), strict=True)
    parts = [
        checkpoint(_kl, student, teacher, temperature, use_reentrant=False, preserve_rng_state=False)
        for student, teacher in pairs
    ]
    return torch.cat(parts)


def _kl(student_NV: Tensor, teacher_NV: Tensor, temperature: float) -> Tensor:
    log_q, log_p = ((_wide(logits) / temperature).log_softmax(-1) for logits in (student_NV, teacher_NV))
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _check(teacher_weight: float, z_loss: float) -> None:
    if not 0 <= teacher_weight <= 1:
        raise ValueError(f"teacher_weight: got {teacher_weight}, need 0..1")
    if not z_loss >= 0:
        raise ValueError(f"z_loss: got {z_loss}, need 0 or more")


def _check_vocabulary(teacher: Decoder | None, logits_NV: Tensor) -> None:
    if teacher is not None and teacher.cfg.vocab_size != logits_NV.shape[-1]:
        raise ValueError(
            f"teacher: got a vocabulary of {teacher.cfg.vocab_size}, need {logits_NV.shape[-1]} as the student has; "
            "train both with one tokenizer"
        )


def _update(digest: Any, tensors: Mapping[str, Tensor]) -> None:
    """Names, types, shapes and bytes, so that no two sets of tensors give the same input."""
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
