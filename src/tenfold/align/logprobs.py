"""Log-probabilities of the learned tokens of a batch, at a memory that does not grow with batch times vocabulary.

The output layer runs on the learned positions only, a few rows at a time, and again in the backward pass.
"""

# Shape legend: B batch, T sequence, N learned tokens, D states' width, V vocabulary

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tenfold.align.samples import Batch, Sample, pad
from tenfold.lm.decoder import Decoder
from tenfold.lm.loglikelihood import scoring_mode
from tenfold.lm.loss import IGNORED, token_losses
from tenfold.nn.linear import linear
from tenfold.nn.lora import disabled
from tenfold.nn.moe import moe_layers

Head = Callable[[Tensor], Tensor]
Reference = nn.Module | Literal["adapters off"]

CACHED = "ref_logprob"  # name in a batch of the reference's log-probabilities of its rows, (B,)


def token_logprobs(model: nn.Module, batch: Batch, *, temperature: float = 1.0, states: Tensor | None = None) -> Tensor:
    """ln π of every learned token, (B, T) at the position that predicts it; 0 elsewhere.

    Args:
        model: our decoder, or a causal language model of Hugging Face.
        batch: "ids" and "targets" (-100 left out), int64 (B, T); "mask", bool (B, T), False at padding; for packed rows
            of our decoder "segments" and "positions".
        temperature: divides the logits.
        states: the batch's `hidden_states`, where the caller has them already.
    """
    head = output_head(model)

    def score(states_ND: Tensor, targets_N: Tensor) -> tuple[Tensor, ...]:
        return (-token_losses(warmed(head(states_ND), temperature), targets_N)[0],)

    kept_BT = batch["targets"] != IGNORED
    states_ND = (hidden_states(model, batch) if states is None else states)[kept_BT]
    (logp_N,) = by_rows(score, vocabulary(model, states_ND), states_ND, batch["targets"][kept_BT])
    return spread(logp_N, kept_BT)


def sequence_logprobs(model: nn.Module, batch: Batch, *, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Σ ln π over the learned tokens of each row, (B,), and how many they are, (B,); arguments as `token_logprobs`."""
    logp_BT = token_logprobs(model, batch, temperature=temperature)
    return logp_BT.sum(-1), (batch["targets"] != IGNORED).sum(-1)


def reference_logprobs(
    model: nn.Module, batch: Batch, reference: Reference | None, *, temperature: float = 1.0
) -> Tensor:
    """Σ ln π_ref over the learned tokens of each row, (B,), without gradients and without dropout.

    Args:
        model: the policy.
        batch: as in `token_logprobs`.
        reference: a frozen model, or the policy with its adapters off. None: `batch["ref_logprob"]` holds the sums, as
            `logprobs_of` gives them.
    Raises:
        ValueError: no reference and no sums.
    """
    if reference is None:
        if CACHED not in batch:
            raise ValueError(f'reference: got None and a batch without "{CACHED}", need one of them')
        return batch[CACHED]
    with torch.no_grad(), reference_model(model, reference) as frozen:
        return sequence_logprobs(frozen, batch, temperature=temperature)[0]


@contextmanager
def reference_model(model: nn.Module, reference: Reference) -> Iterator[nn.Module]:
    """The reference in evaluation mode, for the length of the block."""
    if isinstance(reference, nn.Module):
        with scoring_mode(reference):
            yield reference
    elif reference == "adapters off":
        with disabled(model), scoring_mode(model):
            yield model
    else:
        raise ValueError(f"reference: got {reference!r}, need a model or 'adapters off'")


@torch.no_grad()
def logprobs_of(
    model: nn.Module, samples: Sequence[Sample], *, batch_tokens: int = 8192, temperature: float = 1.0
) -> list[float]:
    """Σ ln π over the learned tokens of every sample, in evaluation mode; samples of like length share a batch.

    Args:
        model: as in `token_logprobs`.
        samples: rows.
        batch_tokens: tokens of a batch, padding included; no effect on the result.
        temperature: divides the logits.
    """
    device = next(model.parameters()).device
    found = [0.0] * len(samples)
    with scoring_mode(model):
        for index in batches_by_length(samples, batch_tokens):
            batch = {name: value.to(device) for name, value in pad([samples[i] for i in index]).items()}
            sums = sequence_logprobs(model, batch, temperature=temperature)[0].tolist()
            for i, value in zip(index, sums, strict=True):
                found[i] = value
    return found


def batches_by_length(samples: Sequence[Sample], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of samples of like length, longest first; a batch has at most `batch_tokens` tokens, or one sample."""
    if batch_tokens < 1:
        raise ValueError(f"batch_tokens: got {batch_tokens}, need at least 1")
    batch: list[int] = []
    for i in sorted(range(len(samples)), key=lambda i: (-len(samples[i].ids), i)):
        if batch and (len(batch) + 1) * len(samples[batch[0]].ids) > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def hidden_states(model: nn.Module, batch: Batch) -> Tensor:
    """What the output layer of `output_head` reads, (B, T, D); for other models than a plain decoder, the logits."""
    ids, mask = batch["ids"], batch.get("mask")
    # Padding on the right is invisible to a causal model, but experts would see it, and so would rows padded on the left.
    left = mask is not None and not bool(mask[:, 0].all())
    if isinstance(model, Decoder):
        segments = batch.get("segments")
        seen = mask if segments is None and (left or model.cfg.moe is not None) else None
        # Exactly this class: a sharded one gathers its weights in forward only.
        run = model.hidden if type(model) is Decoder else model
        return run(ids, positions=batch.get("positions"), segments=segments, mask=seen)
    if "segments" in batch:
        raise ValueError(f"batch: got packed rows, {type(model).__name__} needs one sample a row (packed=False)")
    out = model(ids, attention_mask=mask) if left else model(ids)
    return getattr(out, "logits", out)


def output_head(model: nn.Module) -> Head:
    """States to logits: the output layer of a plain decoder; other models have applied theirs already."""
    return model.head if type(model) is Decoder else nn.Identity()


def frozen_head(model: nn.Module) -> Head:
    """The output layer as it is now, whatever the model learns later."""
    if type(model) is not Decoder:
        return nn.Identity()
    if model.lm_head is not None:
        return copy.deepcopy(model.lm_head).requires_grad_(False)
    weight = model.embed_tokens.weight.detach().clone()
    return lambda states: linear(states, weight)


def vocabulary(model: nn.Module, states: Tensor) -> int:
    """V, of a model and its `hidden_states`."""
    return model.cfg.vocab_size if type(model) is Decoder else states.shape[-1]


def by_rows(function: Callable[..., tuple[Tensor, ...]], vocab_size: int, *tensors_N: Tensor) -> tuple[Tensor, ...]:
    """`function` of a few rows at a time, its results joined; in the backward pass they are made again.

    Args:
        function: row by row, from parts of the tensors to tensors (rows,).
        vocab_size: V, which says how many rows' logits may exist at once (32 MB of them on a CPU).
        tensors_N: with the rows in their first axis.
    """
    count = max(1, (2**23 if tensors_N[0].is_cpu else 2**26) // vocab_size)
    parts = zip(*(tensor.split(count) for tensor in tensors_N), strict=True)
    if torch.is_grad_enabled():
        made = [checkpoint(function, *part, use_reentrant=False, preserve_rng_state=False) for part in parts]
    else:
        made = [function(*part) for part in parts]
    return tuple(torch.cat(column) for column in zip(*made, strict=True))


def spread(values_N: Tensor, kept_BT: Tensor) -> Tensor:
    """Values of the kept positions at their places, (B, T); 0 elsewhere."""
    return values_N.new_zeros(kept_BT.shape).masked_scatter(kept_BT, values_N)


def warmed(logits: Tensor, temperature: float) -> Tensor:
    """Logits divided by the temperature, in float32 at least."""
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    return logits if temperature == 1 else logits / temperature


def auxiliary(model: nn.Module) -> tuple[Tensor | float, dict[str, Tensor]]:
    """The auxiliary loss of the experts in the last forward pass, and "aux" for the metrics; 0 without experts."""
    layers = [layer.last.aux_loss for _, layer in moe_layers(model) if layer.last is not None]
    if not layers:
        return 0.0, {}
    aux = torch.stack(layers).sum()
    return aux, {"aux": aux.detach()}
