"""Settings of a mixture-of-experts layer, checked when they are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TOKEN_ROUTERS = ("top1", "top2", "topk", "topk_bias")
EXPERT_ROUTERS = ("expert_choice", "race", "random")
ROUTERS = TOKEN_ROUTERS + EXPERT_ROUTERS
BACKENDS = ("auto", "grouped", "padded", "loop", "einsum")
ACTIVATIONS = ("swiglu", "relu", "gelu", "gelu_tanh")


@dataclass(frozen=True)
class MoEConfig:
    """One mixture-of-experts (MoE) layer.

    Args:
        dim: model width M.
        hidden: hidden width H of one expert.
        num_experts: E.
        top_k: experts a token takes, k. `top1` and `top2` fix it themselves.
        router: `top1` (Switch), `top2` (GShard), `topk`, `topk_bias` (a selection bias, moved after
            each step by `moe.update_biases` instead of a loss), `expert_choice` (experts pick tokens), `race` (the k·S best token-expert pairs of a
            group), `random` (expert choice with a frozen random router: the control experiment).
        capacity_factor: room of an expert relative to S/E tokens, k included ("total" convention). "auto" is k for
            token choice (1.0 with "per_choice", the same room) and 2.0 for expert choice; None is `expert_capacity`.
            `race` has no capacity: it shares out top_k·S places.
        eval_capacity_factor: the same in eval mode; None is as in training.
        expert_capacity: smallest room of an expert in tokens; a floor, never a ceiling, where a factor is set.
        capacity_convention: "total": S·factor/E (AXLearn). "per_choice": k·S·factor/E, rounded up (Switch, Megatron).
        capacity_rounding: "floor" or "ceil" of the "total" convention.
        capacity_multiple: rounds the capacity up to a multiple.
        dropless: no capacity (token choice only); load balance spans all tokens instead of groups.
        groups, outer: tokens of a call form outer·groups groups, routed and limited apart. Expert choice takes one
            sequence as a group while both are 1.
        group_size: tokens a group, instead of `groups` and `outer`; may span sequences.
        activation: `swiglu` (gated: w0, w1, w2) or `relu`, `gelu`, `gelu_tanh` (w0, w2).
        bias: experts have biases.
        score: "softmax" over experts or "sigmoid" of the router logits.
        normalize: token choice divides a token's weights by their sum (never for `top1`).
        renormalize: expert choice divides a token's gates by their sum over the experts that picked it.
        route_scale: factor on all routing weights.
        causal: the model is causal; refuses routers that look at later tokens.
        second_policy: "all", or "random": in training the second expert is used with probability 2·weight (GShard).
        logit_cap: c > 0 caps logits at c·tanh(z/c); 0 is off.
        jitter: in training the router's input is multiplied by U(1 − jitter, 1 + jitter).
        gumbel: in training Gumbel(0, 1) noise is added to the logits before the scores.
        lb_weight, z_weight, sequence_weight: weights of load balance, router z-loss and sequence-wise balance in
            `aux_loss`.
        shared_hidden: hidden width of a dense expert that every token takes; 0 is none.
        shared_gate: the shared expert is multiplied by sigmoid(x·w).
        deterministic: results do not depend on the order of atomic additions on any device; refuses the one backend
            that would, "loop".
        backend: "grouped" (ragged matrix products), "padded" (batched products), "loop" (an expert at a time),
            "einsum" (one-hot dispatch, the reference), "auto" (the fastest for the shape).
    """

    dim: int
    hidden: int
    num_experts: int = 8
    top_k: int = 2
    router: str = "top2"
    capacity_factor: float | Literal["auto"] | None = "auto"
    eval_capacity_factor: float | Literal["auto"] | None = None
    expert_capacity: int | None = None
    capacity_convention: str = "total"
    capacity_rounding: str = "floor"
    dropless: bool = False
    groups: int = 1
    outer: int = 1
    group_size: int | None = None
    activation: str = "swiglu"
    bias: bool = False
    score: str = "softmax"
    normalize: bool = True
    renormalize: bool = False
    route_scale: float = 1.0
    causal: bool = False
    second_policy: str = "all"
    logit_cap: float = 0.0
    jitter: float = 0.0
    gumbel: bool = False
    lb_weight: float = 0.01
    z_weight: float = 0.0
    shared_hidden: int = 0
    shared_gate: bool = False
    deterministic: bool = False
    capacity_multiple: int = 1
    backend: str = "auto"
    sequence_weight: float = 0.0

    def __post_init__(self) -> None:
        self._check_choices()
        for name in ("dim", "hidden", "num_experts", "top_k", "groups", "outer", "capacity_multiple"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, need at least 1")
        for name in ("group_size", "expert_capacity"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: got {value}, need at least 1 or None")
        for name in ("logit_cap", "lb_weight", "z_weight", "sequence_weight", "shared_hidden"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: got {getattr(self, name)}, need a finite number, at least 0")
        if not 0 <= self.jitter < 1:
            raise ValueError(f"jitter: got {self.jitter}, need 0 <= jitter < 1")
        if self.shared_gate and not self.shared_hidden:
            raise ValueError("shared_gate: got True, need shared_hidden > 0 for a gate to act on")
        if self.group_size is not None and (self.groups, self.outer) != (1, 1):
            raise ValueError(
                f"group_size: got {self.group_size} beside groups={self.groups}, outer={self.outer}; set one"
            )
        if self.deterministic and self.backend == "loop":
            raise ValueError("deterministic: got True with backend 'loop', which adds in any order on accelerators")
        self._check_k()
        self._check_capacity()

    def _check_choices(self) -> None:
        for name, allowed in (
            ("router", ROUTERS),
            ("backend", BACKENDS),
            ("activation", ACTIVATIONS),
            ("score", ("softmax", "sigmoid")),
            ("capacity_convention", ("total", "per_choice")),
            ("capacity_rounding", ("floor", "ceil")),
            ("second_policy", ("all", "random")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, need one of {', '.join(allowed)}")
        if self.causal and self.picks_tokens:
            raise ValueError(
                f"router: got {self.router!r} with causal=True; it chooses among all tokens of a group and so shows "
                "later tokens to earlier ones: use a token-choice router"
            )
        if self.renormalize and not self.picks_tokens:
            raise ValueError(f"renormalize: got True with router {self.router!r}, need expert choice (see normalize)")
        if self.sequence_weight and self.picks_tokens:
            raise ValueError(
                f"sequence_weight: got {self.sequence_weight} with router {self.router!r}, need token choice"
            )
        if self.second_policy == "random" and self.router != "top2":
            raise ValueError(f"second_policy: got 'random' with router {self.router!r}, need router 'top2'")

    def _check_k(self) -> None:
        fixed = {"top1": 1, "top2": 2}.get(self.router)
        if fixed is not None:
            if self.top_k not in (fixed, 2):
                raise ValueError(
                    f"top_k: got {self.top_k} with router {self.router!r}, need {fixed}; see router 'topk'"
                )
            object.__setattr__(self, "top_k", fixed)
        if self.router not in ("expert_choice", "random") and self.top_k > self.num_experts:
            raise ValueError(f"top_k: got {self.top_k}, need 1..{self.num_experts} (num_experts)")

    def _check_capacity(self) -> None:
        if self.dropless and self.picks_tokens:
            raise ValueError(f"dropless: got True with router {self.router!r}; only token choice drops tokens")
        for name in ("capacity_factor", "eval_capacity_factor"):
            factor = getattr(self, name)
            if isinstance(factor, str):
                if factor != "auto":
                    raise ValueError(f"{name}: got {factor!r}, need a number above 0, 'auto' or None")
            elif factor is not None:
                if not 0 < factor < float("inf"):
                    raise ValueError(f"{name}: got {factor}, need a number above 0, 'auto' or None")
                if self.picks_tokens and factor > self.num_experts:
                    raise ValueError(f"{name}: got {factor}, need at most {self.num_experts} (num_experts)")
        if not self.dropless and self.capacity_factor is None and self.expert_capacity is None:
            raise ValueError("capacity_factor: got None without expert_capacity, need one of them or dropless=True")

    @property
    def picks_tokens(self) -> bool:
        """Experts pick tokens (or pairs race), rather than tokens experts."""
        return self.router in EXPERT_ROUTERS

    @property
    def gated(self) -> bool:
        """Experts have a gate and an up projection (w0, w1) before the down projection w2."""
        return self.activation == "swiglu"
