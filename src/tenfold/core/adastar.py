"""AdaStar: RMSProp whose steps are clipped tensor by tensor and then averaged, the optimizer of the AFM models."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, cast, get_args, overload

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.optimizer import ParamsT

from tenfold.core.optim import clip_grad_norm

MomentumOn = Literal["update", "gradient"]

_TINY = 1e-30  # added to g², so that a gradient of zero gives a step of zero and not 0/0
_IN_CACHE = 1 << 17  # numbers a CPU updates at a time: what each pass reads, the one before has left in the cache


class AdaStar(torch.optim.Optimizer):
    """For every tensor θ with gradient g, at its update t = 1, 2, …:

        v ← β2 v + (1 - β2) (g² + 1e-30)        u = g / (√(v / (1 - β2^t)) + eps)
        u ← u / max(1, rms(u) / update_clip)    m ← β1 m + (1 - β1) u
        θ ← θ - s (lr · lr_mult · m + weight_decay · θ)

    First of all, the joint norm N of all gradients decides: if it is not finite or N >= drop_norm, the whole step is
    left out and counted in `skipped`; else g is scaled by min(1, clip_norm / (N + 1e-8)).

    Decay goes by the schedule s alone, not by lr: it is the share of a weight lost in a step at the peak. It hits every
    tensor, norms and embeddings too. There are two ways to a schedule, and one of them at a time: `schedule` here, or,
    with None, whoever sets the `lr` of the groups (`TrainState`, or a scheduler of torch); s is then lr / initial_lr.

    The rms is that of a whole tensor, also of a sharded one (DTensor); a stack of experts counts as one tensor. Weights
    are float32 or float64: run the forward pass under autocast for less.

    Args:
        params: parameters, or groups with options of their own: "lr", "lr_mult" (a factor on lr that leaves the decay
            alone, 1 by default), "weight_decay" and the other options that are not about the whole step.
        lr: peak learning rate, > 0.
        betas: (β1, β2), each in [0, 1).
        weight_decay: share of a weight taken off by a step at s = 1, >= 0.
        schedule: s as a function of the step, from 1; skipped steps do not count. Not part of the state.
        clip_norm: largest joint norm of the gradient, > 0; None leaves it.
        drop_norm: joint norm from which on a step is left out, > 0; None leaves out non-finite ones only.
        update_clip: largest rms of u, > 0; None leaves it.
        momentum_on: "gradient" averages g in place of u, as Adam does: u = m / (√(v / (1 - β2^t)) + eps), clipped, is
            then the step. With debias_momentum, eps 1e-8 and no clips that is Adam with decoupled decay.
        debias_momentum: divide m by 1 - β1^t where it is used.
        eps: >= 0.
    Raises:
        ValueError: an option out of its range, or weights of another type.
    Source: Gunter et al. 2024, arXiv 2407.21075 (core pre-training).
    """

    handles_clipping = True  # the training loop hands over raw gradients

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.01,
        betas: tuple[float, float] = (0.95, 0.95),
        weight_decay: float = 3.16e-4,
        schedule: Callable[[int], float] | None = None,
        clip_norm: float | None = 1.0,
        drop_norm: float | None = 100.0,
        update_clip: float | None = 1.0,
        momentum_on: MomentumOn = "update",
        debias_momentum: bool = False,
        eps: float = 0.0,
    ) -> None:
        for name, bound in (("clip_norm", clip_norm), ("drop_norm", drop_norm)):
            if bound is not None and not bound > 0:
                raise ValueError(f"{name}: got {bound}, need > 0 or None")
        self.schedule = schedule
        self.clip_norm, self.drop_norm = clip_norm, drop_norm
        self.steps = self.skipped = 0
        defaults = {
            "lr": lr,
            "lr_mult": 1.0,
            "betas": betas,
            "weight_decay": weight_decay,
            "update_clip": update_clip,
            "momentum_on": momentum_on,
            "debias_momentum": debias_momentum,
            "eps": eps,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; options it lacks take the values given at construction."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        group.setdefault("initial_lr", group["lr"])
        _check(group)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step from the gradients at hand; parameters without a gradient stay as they are.

        Args:
            closure: computes the gradients and returns the loss.
        Returns:
            What the closure returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        norm = float(clip_grad_norm((p for group in self.param_groups for p in group["params"]), None))
        if not math.isfinite(norm) or norm >= _bound(self.drop_norm):
            self.skipped += 1
            return loss
        shrink = min(1.0, _bound(self.clip_norm) / (norm + 1e-8))
        shares = [self._share(group) for group in self.param_groups]
        self.steps += 1
        for group, share in zip(self.param_groups, shares, strict=True):
            for parameters in self._batches(group):
                _update(parameters, [self.state[p] for p in parameters], group, shrink, share)
        return loss

    def _share(self, group: Mapping[str, Any]) -> float:
        """s, the schedule's value at the step about to be taken."""
        if self.schedule is None:
            return group["lr"] / group["initial_lr"]
        if group["lr"] != group["initial_lr"]:
            raise ValueError(
                f"schedule: got one of AdaStar's own and a learning rate changed from {group['initial_lr']} to "
                f"{group['lr']} from outside, need one of the two"
            )
        return self.schedule(self.steps + 1)

    def _batches(self, group: Mapping[str, Any]) -> Iterator[list[nn.Parameter]]:
        """Parameters updated together: equal in type, place, sharding and number of updates."""
        kinds: dict[tuple[Any, ...], list[nn.Parameter]] = {}
        for p in group["params"]:
            if p.grad is None:
                continue
            state = self.state[p]
            if not state:
                state.update(step=0, exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
            sharding = (p.device_mesh, p.placements) if isinstance(p, DTensor) else None
            kinds.setdefault((state["step"], p.dtype, p.device, sharding), []).append(p)
        for (_, _, device, sharding), parameters in kinds.items():
            yield from [parameters] if sharding or device.type != "cpu" else _cut(parameters, _IN_CACHE)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "steps": self.steps, "skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        steps, skipped = state_dict["steps"], state_dict["skipped"]
        super().load_state_dict(state_dict)
        self.steps, self.skipped = steps, skipped

    def __getstate__(self) -> dict[str, Any]:
        own = ("schedule", "clip_norm", "drop_norm", "steps", "skipped")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in own}}


def plain_groups(groups: Iterable[Mapping[str, Any]], lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """The same groups for an optimizer of torch that knows no `lr_mult`, such as AdamW.

    Each group gets the rate lr · lr_mult. Those optimizers multiply the decay by that rate, so it is divided by it
    here: a step takes off weight_decay times the schedule, as AdaStar's does.

    Args:
        groups: with "params"; "lr_mult" and "weight_decay" where they differ from 1 and `weight_decay`.
        lr: peak learning rate, > 0.
        weight_decay: share of a weight taken off by a step at the peak.
    """
    plain = []
    for group in groups:
        rate = lr * group.get("lr_mult", 1.0)
        if not rate > 0:
            raise ValueError(f"lr · lr_mult: got {rate}, need > 0")
        decay = group.get("weight_decay", weight_decay) / rate
        rest = {key: value for key, value in group.items() if key != "lr_mult"}
        plain.append({**rest, "lr": rate, "weight_decay": decay})
    return plain


def _update(
    parameters: Sequence[nn.Parameter],
    states: Sequence[dict[str, Any]],
    group: Mapping[str, Any],
    shrink: float,
    share: float,
) -> None:
    """The update of parameters of one kind. `shrink` scales their gradients; these are left as they are."""
    beta1, beta2 = group["betas"]
    for state in states:
        state["step"] += 1
    step = states[0]["step"]
    weights = [_local(p) for p in parameters]
    grads = [_local_grad(p) for p in parameters]
    means = [_local(state["exp_avg"]) for state in states]
    squares = [_local(state["exp_avg_sq"]) for state in states]

    torch._foreach_mul_(squares, beta2)
    torch._foreach_addcmul_(squares, grads, grads, value=(1 - beta2) * shrink**2)
    torch._foreach_add_(squares, (1 - beta2) * _TINY)
    unbias = math.sqrt(1 - beta2**step)
    if group["eps"]:
        inverse = list(torch._foreach_sqrt(squares))
        torch._foreach_add_(inverse, group["eps"] * unbias)
        torch._foreach_reciprocal_(inverse)
    else:
        inverse = list(torch._foreach_rsqrt(squares))  # half the time of sqrt and division
    debias = 1 - beta1**step if group["debias_momentum"] else 1.0

    if group["momentum_on"] == "gradient":
        torch._foreach_mul_(means, beta1)
        torch._foreach_add_(means, grads, alpha=(1 - beta1) * shrink)
        steps = _clipped(means, inverse, unbias / debias, parameters, group["update_clip"])
        debias = 1.0  # before the clip, hence not again
    else:
        updates = _clipped(grads, inverse, unbias * shrink, parameters, group["update_clip"])
        torch._foreach_lerp_(means, updates, 1 - beta1)
        steps = means
    if group["weight_decay"]:
        torch._foreach_mul_(weights, 1 - share * group["weight_decay"])
    torch._foreach_add_(weights, steps, alpha=-share * group["initial_lr"] * group["lr_mult"] / debias)


def _clipped(
    numerators: list[Tensor],
    inverse: list[Tensor],
    scale: float,
    parameters: Sequence[nn.Parameter],
    update_clip: float | None,
) -> list[Tensor]:
    """u = scale · numerator · inverse, its rms at most `update_clip`; written over `inverse`."""
    torch._foreach_mul_(inverse, numerators)
    if update_clip is None:
        torch._foreach_mul_(inverse, scale)
        return inverse
    norms = torch.stack(torch._foreach_norm(inverse))
    first = parameters[0]
    if isinstance(first, DTensor):
        sums = norms.square()
        for axis, placement in enumerate(first.placements):
            if not placement.is_replicate():
                torch.distributed.all_reduce(sums, group=first.device_mesh.get_group(axis))
        norms = sums.sqrt()
    rms = [scale * norm / math.sqrt(max(1, p.numel())) for norm, p in zip(norms.tolist(), parameters, strict=True)]
    torch._foreach_mul_(inverse, [scale / max(1.0, size / update_clip) for size in rms])
    return inverse


def _check(group: Mapping[str, Any]) -> None:
    betas, clip = group["betas"], group["update_clip"]
    if not group["lr"] > 0:
        raise ValueError(f"lr: got {group['lr']}, need > 0 (lr_mult 0 stops the steps and keeps the decay)")
    for name in ("lr_mult", "weight_decay", "eps"):
        if not group[name] >= 0:
            raise ValueError(f"{name}: got {group[name]}, need >= 0")
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas: got {betas}, need two numbers in [0, 1)")
    if clip is not None and not clip > 0:
        raise ValueError(f"update_clip: got {clip}, need > 0 or None")
    if group["momentum_on"] not in get_args(MomentumOn):
        raise ValueError(f"momentum_on: got {group['momentum_on']!r}, need 'update' or 'gradient'")
    for parameter in group["params"]:
        if parameter.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"params: got {parameter.dtype}, need float32 or float64 weights (and autocast for less)")


def _cut(parameters: Sequence[nn.Parameter], size: int) -> Iterator[list[nn.Parameter]]:
    """Runs of parameters of `size` numbers or little more."""
    run: list[nn.Parameter] = []
    numbers = 0
    for parameter in parameters:
        run.append(parameter)
        numbers += parameter.numel()
        if numbers >= size:
            yield run
            run, numbers = [], 0
    if run:
        yield run


def _bound(value: float | None) -> float:
    return math.inf if value is None else value


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _local_grad(parameter: nn.Parameter) -> Tensor:
    grad = cast(Tensor, parameter.grad)
    if isinstance(grad, DTensor):
        return grad.redistribute(placements=cast(DTensor, parameter).placements).to_local()
    return grad
