"""Hypergradients: how a validation loss changes with the weights of the losses that were trained on.

Nothing here knows of clinics: parameters are tensors, losses are functions of them.
"""

# Symbols: φ parameters, κ weights, L_u(φ, κ) auxiliary loss, α inner rate, G = ∂L_u/∂φ, v = ∂L_val/∂φ after the steps

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from tenfold.clinical.hessian_chain import hessian_fixed, official_approx, official_hessian
from tenfold.clinical.implicit_gradient import implicit
from tenfold.clinical.inner_loop import Optimizer, filled, grad, gradients, leaves, run, trace
from tenfold.clinical.inner_problem import HypergradientOptions, InnerProblem, dot

HypergradientMode = Literal[
    "unrolled", "first_order", "finite_diff", "implicit", "official_approx", "official_hessian", "hessian_fixed"
]


def hypergradient(
    mode: HypergradientMode,
    *,
    aux_loss: Callable[..., Tensor],
    val_loss: Callable[[Any], Tensor],
    params: Any,
    kappa: Tensor,
    steps: int | Sequence[Any],
    lr: float,
    opt: Optimizer = "sgd",
    **kw: Any,
) -> Tensor:
    """dL_val/dκ after inner steps on the auxiliary loss, exactly or by one of several approximations.

    The steps are taken on copies. Modes: `unrolled`, exact, reverse mode through all steps; `first_order`,
    -α Σ_k ∂⟨v, G_k⟩/∂κ, without Hessians; `finite_diff`, the same from two gradients at φ ± ε·v; `implicit`, the
    implicit function theorem at the last φ; `hessian_fixed`, the chain of I - αH along SGD steps; and, to compare with
    the authors' code, `official_approx`, whose direction is that of ∂L_u/∂κ whatever the target, and
    `official_hessian`, which takes αH from a matrix of ones.

    Args:
        mode: as above.
        aux_loss: aux_loss(params, kappa), or aux_loss(params, kappa, batch) where `steps` are batches; a scalar.
        val_loss: val_loss(params), a scalar.
        params: a tensor, or dicts and lists of tensors, handed to the losses in the same form; some may enter only one
            of the losses.
        kappa: the weights, or what they are made of; any shape.
        steps: the number of inner steps, or the batch of each.
        lr: α, the rate of the inner steps.
        opt: the inner optimizer; the chains of Hessians need "sgd".
        **kw: fields of `HypergradientOptions`.
    Returns:
        A tensor of kappa's shape.
    Raises:
        ValueError: an unknown mode or optimizer, no step, a loss that κ or the parameters do not enter, or `unrolled`
            with a loss that draws random numbers.
    Source: Xue et al. 2020, arXiv 2407.19359; Liu et al. 2019 (DARTS), Eq. 7 and 8; Lorraine et al. 2020, Eq. 4.
    """
    if mode not in get_args(HypergradientMode):
        raise ValueError(f"mode: got {mode!r}, need one of {', '.join(get_args(HypergradientMode))}")
    if opt not in get_args(Optimizer):
        raise ValueError(f"opt: got {opt!r}, need one of {', '.join(get_args(Optimizer))}")
    if opt != "sgd" and mode in ("official_hessian", "hessian_fixed"):
        raise ValueError(f"opt: got {opt!r}, need 'sgd' for {mode}")
    # cuDNN's recurrent layers have no second derivative; torch's own have.
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        problem = InnerProblem.of(aux_loss, val_loss, params, kappa, steps, lr, opt, HypergradientOptions(**kw))
        return _MODES[mode](problem).detach()


def unrolled(problem: InnerProblem) -> Tensor:
    """Reverse mode, chunk by chunk: only the states between chunks are kept, and one chunk's graph at a time."""
    _refuse_chance(problem)
    size = problem.options.unroll_chunk or len(problem.steps)
    chunks = [problem.steps[i : i + size] for i in range(0, len(problem.steps), size)]
    starts = [problem.start]
    for chunk in chunks[:-1]:
        starts.append(run(chunk, starts[-1], problem.kappa, problem.rule))
    parts: list[Tensor] = []
    cotangents: list[Tensor] | None = None
    while chunks:
        start = starts.pop().leaves()
        end = trace(chunks.pop(), start, problem.kappa, problem.rule)
        outputs = [problem.val(end.parameters)] if cotangents is None else end.tensors()
        *found, of_kappa = grad(outputs, [*start.tensors(), problem.kappa], cotangents)
        cotangents = filled(found, start.tensors())
        if of_kappa is not None:
            parts.append(of_kappa)
        del end, outputs  # their graph, before the next one is made
    if not parts:
        problem.validation_gradient(problem.start.parameters)
    return torch.stack(parts).sum(0) if parts else problem.of_kappa(None)


def first_order(problem: InnerProblem) -> Tensor:
    """-α Σ_k ∂⟨v, G_k⟩/∂κ over the last steps, each G_k with its graph, at the parameters before its step."""
    state, kept = problem.start, []
    last = problem.auxiliary[-problem.options.last_k :]
    for step in problem.steps:
        looked_at = any(step is other for other in last)
        g = gradients(step, leaves(state.parameters), problem.kappa, graph=looked_at)
        if looked_at:
            kept.append(g)
        state = state.update(step, [None if each is None else each.detach() for each in g], problem.rule)
    v = problem.validation_gradient(state.parameters)
    products = torch.stack([dot(g, v) for g in kept])
    found = grad(products, [problem.kappa], [torch.full_like(products, -last[0].lr)])[0]
    return problem.of_kappa(found)


def finite_diff(problem: InnerProblem) -> Tensor:
    """`first_order` from central differences of ∂L_u/∂κ along v."""
    last = problem.auxiliary[-problem.options.last_k :]
    before, after = problem.trajectory()
    v = problem.validation_gradient(after)
    norm = dot(v, v).sqrt()
    if norm == 0:
        return torch.zeros_like(problem.kappa)
    epsilon = problem.options.epsilon / norm
    total = torch.zeros_like(problem.kappa)
    for step, parameters in zip(problem.steps, before, strict=True):
        if any(step is other for other in last):
            for sign in (1, -1):
                moved = [p if g is None else p + sign * epsilon * g for p, g in zip(parameters, v, strict=True)]
                found = problem.of_kappa(grad(step.loss(moved, problem.kappa), [problem.kappa])[0])
                total = total - sign * step.lr / (2 * epsilon) * found
    return total


def _refuse_chance(problem: InnerProblem) -> None:
    """Raise where a loss moves torch's random state: its steps could not be taken a second time."""
    parameters = problem.start.parameters
    before = _random_state(parameters[0].device)
    with torch.no_grad():
        problem.steps[0].loss(parameters, problem.kappa)
        problem.steps[-1].loss(parameters, problem.kappa)
        problem.val(parameters)
    if not torch.equal(before, _random_state(parameters[0].device)):
        raise ValueError("aux_loss: it draws random numbers (dropout?), need losses without chance for 'unrolled'")


def _random_state(device: torch.device) -> Tensor:
    state = torch.get_rng_state()
    return state if device.type == "cpu" else torch.cat([state, torch.get_device_module(device).get_rng_state(device)])


_MODES: dict[str, Callable[[InnerProblem], Tensor]] = {
    "unrolled": unrolled,
    "first_order": first_order,
    "finite_diff": finite_diff,
    "implicit": implicit,
    "official_approx": official_approx,
    "official_hessian": official_hessian,
    "hessian_fixed": hessian_fixed,
}
