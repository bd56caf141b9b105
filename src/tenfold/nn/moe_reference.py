"""The slow, obvious twin of `MoE`: Python loops for who goes where, one-hot einsums for the rest, any float type.

Shape legend: T tokens, E experts, M model width, H hidden width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from tenfold.nn.experts import activate
from tenfold.nn.moe_config import MoEConfig

Assignments = list[tuple[int, int, int]]  # (token, rank of the choice, expert)


def moe_reference(
    x: Tensor,
    params: Mapping[str, Tensor],
    cfg: MoEConfig,
    *,
    mask: Tensor | None = None,
    training: bool = True,
) -> tuple[Tensor, dict[str, Tensor], dict[str, Any]]:
    """What a layer computes, noise apart, written from the equations; for tests and for reading.

    Args:
        x: [B, S, M] or [T, M].
        params: tensors under the layer's parameter names, as in `dict(moe.state_dict(keep_vars=True))`.
        cfg: the settings; without noise.
        mask: bool [B, S], False for padding.
        training: whether `capacity_factor` holds or, in evaluation, `eval_capacity_factor` where it is set.
    Returns:
        y of the shape of x; losses lb_loss, z_loss, sequence_loss, aux_loss; statistics named as in `finish_stats`.
    Raises:
        ValueError: settings that draw random numbers.
    """
    if cfg.jitter or cfg.gumbel or cfg.second_policy == "random":
        raise ValueError("moe_reference: settings draw noise, need jitter=0, gumbel=False, second_policy='all'")
    if not training and cfg.eval_capacity_factor is not None:
        cfg = replace(cfg, capacity_factor=cfg.eval_capacity_factor)
    batch = 1 if x.dim() == 2 else x.shape[0]
    flat = (x if mask is None else x.masked_fill(~mask[..., None], 0)).reshape(-1, cfg.dim)
    valid = [True] * len(flat) if mask is None else mask.reshape(-1).tolist()
    dtype = torch.promote_types(x.dtype, torch.float32)
    logits = flat.to(dtype) @ params["gate_weight"].to(dtype)
    if cfg.logit_cap:
        logits = cfg.logit_cap * torch.tanh(logits / cfg.logit_cap)
    scores = logits.softmax(-1) if cfg.score == "softmax" else logits.sigmoid()
    spans = _spans(cfg, len(flat), batch)
    over: list[int] = []
    if cfg.picks_tokens:
        kept, weights = _experts_choose(cfg, logits, scores, valid, spans)
        chosen = kept
    else:
        chosen, weights = _tokens_choose(cfg, scores, params.get("bias"), valid)
        kept, over = _queue(cfg, chosen, valid, spans)
    y = _compute(cfg, flat, kept, weights, params).view(x.shape)
    losses = _losses(cfg, logits, scores, chosen, valid, spans, len(flat) // batch if len(flat) else 1)
    return y, losses, _stats(cfg, chosen, kept, over, logits, valid)


def _spans(cfg: MoEConfig, tokens: int, batch: int) -> list[range]:
    if cfg.group_size is not None:
        size = cfg.group_size
    elif cfg.picks_tokens and cfg.groups == cfg.outer == 1:
        size = tokens // max(batch, 1)
    else:
        size = tokens // (cfg.groups * cfg.outer)
    return [range(start, start + size) for start in range(0, tokens, size)] if size else []


def _capacity(cfg: MoEConfig, tokens: int) -> int:
    factor = cfg.capacity_factor
    per_choice = cfg.capacity_convention == "per_choice" and not cfg.picks_tokens
    if factor is None:
        room = cfg.expert_capacity or 1
    else:
        if factor == "auto":
            factor = 2 if cfg.picks_tokens else 1 if per_choice else cfg.top_k
            factor = min(factor, cfg.num_experts)
        if per_choice or cfg.capacity_rounding == "ceil":
            room = math.ceil(Fraction(str(factor)) * tokens / cfg.num_experts * (cfg.top_k if per_choice else 1))
        else:
            room = int(tokens * factor / cfg.num_experts)
        room = max(room, cfg.expert_capacity or 1)
    return min(math.ceil(Fraction(room, cfg.capacity_multiple)) * cfg.capacity_multiple, tokens)


def _tokens_choose(
    cfg: MoEConfig, scores: Tensor, bias: Tensor | None, valid: list[bool]
) -> tuple[Assignments, dict[tuple[int, int], Tensor]]:
    ranking = (scores if bias is None else scores + bias).detach().tolist()
    chosen: Assignments = []
    weights: dict[tuple[int, int], Tensor] = {}
    for t, row in enumerate(ranking):
        best = sorted(range(cfg.num_experts), key=lambda e: (-row[e], e))[: cfg.top_k]
        picked = scores[t, best]
        if cfg.normalize and cfg.router == "top2":
            picked = picked / (picked.sum() + 1e-9)
        elif cfg.normalize and cfg.router != "top1":
            picked = picked / picked.sum() if picked.sum() > 0 else picked
        for j, e in enumerate(best):
            weights[t, e] = picked[j] * cfg.route_scale
            if valid[t]:
                chosen.append((t, j, e))
    return chosen, weights


def _queue(cfg: MoEConfig, chosen: Assignments, valid: list[bool], spans: list[range]) -> tuple[Assignments, list[int]]:
    over = [0] * cfg.top_k
    if cfg.dropless:
        return chosen, over
    kept: Assignments = []
    for span in spans:
        capacity = _capacity(cfg, sum(valid[t] for t in span))
        waiting = [0] * cfg.num_experts
        inside = [c for c in chosen if c[0] in span]
        for t, j, e in sorted(inside, key=lambda c: (c[1], c[0])):
            if waiting[e] < capacity:
                kept.append((t, j, e))
            else:
                over[j] += 1
            waiting[e] += 1
    return kept, over


def _experts_choose(
    cfg: MoEConfig, logits: Tensor, scores: Tensor, valid: list[bool], spans: list[range]
) -> tuple[Assignments, dict[tuple[int, int], Tensor]]:
    kept: Assignments = []
    ranking = (logits if cfg.router == "race" else scores).detach().tolist()
    for span in spans:
        tokens = [t for t in span if valid[t]]
        if cfg.router == "race":
            pairs = [(t, e) for t in tokens for e in range(cfg.num_experts)]
            pairs.sort(key=lambda p: -ranking[p[0]][p[1]])
            kept += [(t, 0, e) for t, e in pairs[: cfg.top_k * len(tokens)]]
        else:
            for e in range(cfg.num_experts):
                best = sorted(tokens, key=lambda t: (-ranking[t][e], t))
                kept += [(t, 0, e) for t in best[: _capacity(cfg, len(tokens))]]
    weights = {}
    for t, _, e in kept:
        total = sum((scores[t, f] for u, _, f in kept if u == t), torch.zeros(()))
        weights[t, e] = (scores[t, e] / total if cfg.renormalize else scores[t, e]) * cfg.route_scale
    return kept, weights


def _compute(
    cfg: MoEConfig,
    flat: Tensor,
    kept: Assignments,
    weights: dict[tuple[int, int], Tensor],
    params: Mapping[str, Tensor],
) -> Tensor:
    combine_TE = flat.new_zeros(len(flat), cfg.num_experts)
    for t, _, e in kept:
        one_hot = torch.zeros_like(combine_TE)
        one_hot[t, e] = 1
        combine_TE = combine_TE + one_hot * weights[t, e].to(flat.dtype)

    def project(equation: str, rows: Tensor, i: int) -> Tensor:
        out = torch.einsum(equation, rows, params[f"w{i}"])
        return out + params[f"b{i}"] if cfg.bias else out

    up = project("tm,emh->teh", flat, 1) if cfg.gated else None
    hidden = activate(cfg.activation, project("tm,emh->teh", flat, 0), up)
    y = torch.einsum("te,tem->tm", combine_TE, project("teh,ehm->tem", hidden, 2))
    if cfg.shared_hidden:
        y = y + _shared(cfg, flat, params)
    return y


def _shared(cfg: MoEConfig, flat: Tensor, params: Mapping[str, Tensor]) -> Tensor:
    def project(rows: Tensor, name: str) -> Tensor:
        return torch.nn.functional.linear(
            rows, params[f"shared.{name}.weight"], params[f"shared.{name}.bias"] if cfg.bias else None
        )

    if cfg.gated:
        hidden = activate(cfg.activation, project(flat, "gate_proj"), project(flat, "up_proj"))
    else:
        hidden = activate(cfg.activation, project(flat, "up_proj"), None)
    y = project(hidden, "down_proj")
    return y * torch.sigmoid(flat @ params["shared_gate"]) if cfg.shared_gate else y


def _balance(cfg: MoEConfig, probs: Tensor, chosen: Assignments, tokens: list[int], choices: int) -> Tensor:
    """E·Σ f·P over some tokens, f from the first `choices` choices."""
    share = [0.0] * cfg.num_experts
    inside = set(tokens)
    for t, j, e in chosen:
        if t in inside and j < choices:
            share[e] += 1 / (len(tokens) * choices)
    return cfg.num_experts * (probs.new_tensor(share) * probs[tokens].mean(0)).sum()


def _losses(
    cfg: MoEConfig,
    logits: Tensor,
    scores: Tensor,
    chosen: Assignments,
    valid: list[bool],
    spans: list[range],
    sequence: int,
) -> dict[str, Tensor]:
    real = [t for t in range(len(logits)) if valid[t]]
    zero = logits.sum() * 0
    balance = sequence_loss = zero
    z = torch.logsumexp(logits[real], -1).square().mean() if real else zero
    if real and not cfg.picks_tokens:
        probs = scores if cfg.score == "softmax" else scores / scores.sum(-1, keepdim=True)
        choices = 1 if cfg.router in ("top1", "top2") else cfg.top_k
        groups = [range(len(logits))] if cfg.dropless else spans
        groups = [[t for t in g if valid[t]] for g in groups]  # type: ignore[misc]
        terms = [_balance(cfg, probs, chosen, list(g), choices) for g in groups if g]
        balance = torch.stack(terms).mean()
        if cfg.sequence_weight:
            rows = [range(s, s + sequence) for s in range(0, len(logits), sequence)]
            kept = [[t for t in r if valid[t]] for r in rows]
            sequence_loss = torch.stack([_balance(cfg, probs, chosen, r, cfg.top_k) for r in kept if r]).mean()
    aux = cfg.lb_weight * balance + cfg.z_weight * z + cfg.sequence_weight * sequence_loss
    return {"lb_loss": balance, "z_loss": z, "sequence_loss": sequence_loss, "aux_loss": aux}


def _stats(
    cfg: MoEConfig, chosen: Assignments, kept: Assignments, over: list[int], logits: Tensor, valid: list[bool]
) -> dict[str, Any]:
    experts = range(cfg.num_experts)
    real = [t for t in range(len(logits)) if valid[t]]
    per_expert = [sum(c[2] == e for c in chosen) for e in experts]
    reached = [sum(c[0] == t for c in kept) for t in real]
    total = sum(per_expert)
    shares = [n / total for n in per_expert] if total else []
    entropy = -sum(q * math.log(q) for q in shares if q)
    squares = float(logits[real].detach().double().square().sum())
    widest = cfg.num_experts if cfg.picks_tokens else cfg.top_k
    return {
        "tokens_per_expert": torch.tensor(per_expert),
        "kept_per_expert": torch.tensor([sum(c[2] == e for c in kept) for e in experts]),
        "dispatch": [sum(n == i for n in reached) for i in range(widest + 1)],
        "dropped_fraction": (total - len(kept)) / total if total else 0.0,
        "over_capacity": [n / max(len(real), 1) for n in over],
        "load_entropy": entropy / math.log(cfg.num_experts) if total and cfg.num_experts > 1 else 1.0,
        "max_load": max(shares) * cfg.num_experts if total else 1.0,
        "router_logit_rms": math.sqrt(squares / max(len(real) * cfg.num_experts, 1)),
        "dead_experts": sum(n == 0 for n in per_expert),
    }
