"""A hypergradient from the implicit function theorem: the inner problem is taken to be at its minimum."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tenfold.clinical.inner_loop import filled, grad, gradients, leaves
from tenfold.clinical.inner_problem import HypergradientOptions, InnerProblem

Product = Callable[[Tensor], Tensor]


def implicit(problem: InnerProblem) -> Tensor:
    """-(∂G/∂κ)ᵀ (H + ρI)⁻¹ v at the last parameters, H the Hessian of L_u on the batch of the last auxiliary step.

    H covers the parameters that enter L_u; the others are taken to stay where they are.
    Source: Lorraine et al. 2020, arXiv 1911.02590, Eq. 4 and algorithm 3 (Neumann series).
    """
    step, options = problem.auxiliary[-1], problem.options
    _, after = problem.trajectory()
    v = filled(problem.validation_gradient(after), after)
    inputs = leaves(after)
    g = gradients(step, inputs, problem.kappa, graph=True)
    block = [i for i, each in enumerate(g) if each is not None]
    inner = [inputs[i] for i in block]
    flat_g = torch.cat([each.flatten() for each in g if each is not None])

    def hessian(x: Tensor) -> Tensor:
        products = torch.autograd.grad(flat_g, inner, x, retain_graph=True, allow_unused=True)
        return torch.cat([p.flatten() for p in filled(products, inner)]) + options.rho * x

    b = torch.cat([v[i].flatten() for i in block])
    x = _conjugate_gradients(hessian, b, options) if options.solver == "cg" else _neumann(hessian, b, step.lr, options)
    return problem.of_kappa(grad(flat_g, [problem.kappa], [-x])[0])


def _conjugate_gradients(matrix: Product, b: Tensor, options: HypergradientOptions) -> Tensor:
    """matrix⁻¹ b. A direction of negative curvature ends it with what it has: beyond lies no minimum."""
    x, residual, direction = torch.zeros_like(b), b, b
    square = first = b.dot(b)
    for iteration in range(options.iterations):
        if square <= options.tolerance**2 * first:
            break
        product = matrix(direction)
        curvature = direction.dot(product)
        if curvature <= 0:
            return x if iteration else b
        rate = square / curvature
        x, residual = x + rate * direction, residual - rate * product
        square, previous = residual.dot(residual), square
        direction = residual + square / previous * direction
    return x


def _neumann(matrix: Product, b: Tensor, lr: float, options: HypergradientOptions) -> Tensor:
    """α Σ_j (I - α·matrix)ʲ b, which converges where α is below 2 over the largest eigenvalue."""
    term = x = lr * b
    for _ in range(options.iterations):
        term = term - lr * matrix(term)
        x = x + term
    return x
