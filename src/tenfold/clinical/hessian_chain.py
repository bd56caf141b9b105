"""Hypergradients as the authors' code forms them, and the chain of Hessians that it means."""

from __future__ import annotations

import torch
from torch import Tensor

from tenfold.clinical.inner_loop import filled, grad, gradients, leaves
from tenfold.clinical.inner_problem import InnerProblem

CLIP = 1e4


def official_approx(problem: InnerProblem) -> Tensor:
    """Each dφ_j/dκ is taken to be (1/G_j)·∂L_u/∂κ of the last batch, clipped at ±1e4, then weighed by v.

    Without the clips this is (Σ_j v_j/G_j)·∂L_u/∂κ: of the target it knows one number, a scale.
    Source: the released code of arXiv 2407.19359, `attn_approx`.
    """
    last = problem.auxiliary[-1]
    before, after = problem.trajectory()
    v = problem.validation_gradient(after)
    inputs = leaves(before[len(problem.auxiliary) - 1])
    *g, of_kappa = grad(last.loss(inputs, problem.kappa), [*inputs, problem.kappa])
    d_kappa = problem.of_kappa(of_kappa).flatten()
    total = torch.zeros_like(d_kappa)
    for each, weight in zip(g, v, strict=True):
        if each is not None and weight is not None:
            rates = (each.flatten().reciprocal()[:, None] * d_kappa).clamp(-CLIP, CLIP)
            total = total + weight.flatten() @ rates.nan_to_num(nan=0.0)  # 0/0: an entry that no loss reads
    return total.clamp(-CLIP, CLIP).view_as(problem.kappa)


def official_hessian(problem: InnerProblem) -> Tensor:
    """βᵀ ← βᵀ(1 - αH) from the last step to the first, 1 a matrix of ones, over parameters of both losses alone.

    β starts as the gradient of the last supervised batch; without supervised steps, of the validation loss.
    Source: the released code of arXiv 2407.19359, `attn_hessian`.
    """
    before, after = problem.trajectory()
    auxiliary = gradients(problem.steps[0], leaves(before[0]), problem.kappa)
    v = problem.validation_gradient(after)
    block = [a is not None and b is not None for a, b in zip(auxiliary, v, strict=True)]
    if not problem.steps[-1].auxiliary:
        v = gradients(problem.steps[-1], leaves(before[-1]), problem.kappa)
    beta: list[Tensor | None] = [g if inside else None for g, inside in zip(v, block, strict=True)]
    total = torch.zeros_like(problem.kappa)
    for step, parameters in zip(reversed(problem.steps), reversed(before), strict=True):
        product, of_kappa = problem.along(step, parameters, beta)
        if step.auxiliary:
            total = total - step.lr * of_kappa
        ones = torch.stack([b.sum() for b in beta if b is not None]).sum()  # an entry of βᵀ times the ones
        beta = [ones - step.lr * h if inside else None for h, inside in zip(product, block, strict=True)]
    return total if total.any() else problem.of_kappa(None)


def hessian_fixed(problem: InnerProblem) -> Tensor:
    """βᵀ ← βᵀ(I - αH) over all parameters, β starting as v: exact for SGD."""
    before, after = problem.trajectory()
    beta = filled(problem.validation_gradient(after), after)
    total = torch.zeros_like(problem.kappa)
    for step, parameters in zip(reversed(problem.steps), reversed(before), strict=True):
        moved = [b if moves else None for b, moves in zip(beta, step.moves, strict=True)]
        product, of_kappa = problem.along(step, parameters, moved)
        total = total - step.lr * of_kappa
        beta = [b - step.lr * h for b, h in zip(beta, product, strict=True)]
    return total if total.any() else problem.of_kappa(None)
