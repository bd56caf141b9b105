"""The inner problem of a hypergradient: steps, validation loss and parameters, and what its modes ask of it."""

# Symbols: φ parameters, κ weights, L_u(φ, κ) auxiliary loss, G = ∂L_u/∂φ, v = ∂L_val/∂φ after the steps

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from tenfold.clinical.inner_loop import (
    Moments,
    Optimizer,
    Parameters,
    Rule,
    State,
    Step,
    filled,
    grad,
    gradients,
    leaves,
    run,
)

Solver = Literal["cg", "neumann"]


@dataclass(frozen=True)
class HypergradientOptions:
    """Settings of the modes, beyond those that all share.

    Args:
        last_k: steps that `first_order` and `finite_diff` look back on.
        unroll_chunk: steps whose graph `unrolled` holds at once; the others are run again. None holds all.
        epsilon: `finite_diff` moves the parameters by epsilon·v/‖v‖.
        rho: ρ, added to the diagonal of the Hessian in `implicit`.
        solver: of `implicit`: conjugate gradients, which stop at negative curvature, or the Neumann series with rate lr.
        iterations: of the solver at most.
        tolerance: relative residual at which conjugate gradients stop.
        train_loss: train_loss(params[, batch]) of steps that follow the auxiliary ones, without κ.
        train_steps: their number, or their batches.
        train_lr: their rate; None is lr.
        train_keys: keys of `params`, a dict, that they move; None moves all.
        betas, eps, eps_root: of the inner Adam; see `inner_loop.Rule`.
        moments: of an inner Adam under way, one for each parameter; None begins anew.
    """

    last_k: int = 1
    unroll_chunk: int | None = None
    epsilon: float = 0.01
    rho: float = 0.0
    solver: Solver = "cg"
    iterations: int = 100
    tolerance: float = 1e-12
    train_loss: Callable[..., Tensor] | None = None
    train_steps: int | Sequence[Any] = 0
    train_lr: float | None = None
    train_keys: Sequence[str] | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    eps_root: float = 1e-24
    moments: Sequence[Moments] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in ("last_k", "iterations", "unroll_chunk"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: got {value}, need at least 1")
        if not 0 < self.epsilon < math.inf:
            raise ValueError(f"epsilon: got {self.epsilon}, need a finite number > 0")
        if not 0 <= self.rho < math.inf:
            raise ValueError(f"rho: got {self.rho}, need a finite number from 0")
        if self.solver not in get_args(Solver):
            raise ValueError(f"solver: got {self.solver!r}, need one of {', '.join(get_args(Solver))}")
        if self.train_loss is None and _count(self.train_steps):
            raise ValueError("train_loss: got None, need the loss of train_steps")


@dataclass(frozen=True)
class InnerProblem:
    """Parameters as a flat list, the auxiliary steps and then the training steps.

    Args:
        steps: in their order.
        val: the validation loss.
        start: where the steps begin.
        kappa: the weights, a leaf.
        rule: of the updates.
        options: as given.
    """

    steps: list[Step]
    val: Callable[[Parameters], Tensor]
    start: State
    kappa: Tensor
    rule: Rule
    options: HypergradientOptions

    @staticmethod
    def of(
        aux_loss: Callable[..., Tensor],
        val_loss: Callable[[Any], Tensor],
        params: Any,
        kappa: Tensor,
        steps: int | Sequence[Any],
        lr: float,
        opt: Optimizer,
        options: HypergradientOptions,
    ) -> InnerProblem:
        """Args: as of `hypergradient`."""
        if _count(steps) < 1:
            raise ValueError(f"steps: got {steps}, need at least 1 inner step")
        if not 0 < lr < math.inf:
            raise ValueError(f"lr: got {lr}, need a finite number > 0")
        flat, form = tree_flatten(params)
        train_lr = lr if options.train_lr is None else options.train_lr
        moved = _moved(params, options.train_keys)

        def auxiliary(batch: tuple[Any, ...]) -> Step:
            return Step(lambda p, k: aux_loss(tree_unflatten(p, form), k, *batch), lr, (True,) * len(flat))

        def training(batch: tuple[Any, ...]) -> Step:
            loss = options.train_loss
            assert loss is not None  # the options saw to it
            return Step(lambda p, _: loss(tree_unflatten(p, form), *batch), train_lr, moved, auxiliary=False)

        rule = Rule(opt, options.betas, options.eps, options.eps_root)
        return InnerProblem(
            [*map(auxiliary, _batches(steps)), *map(training, _batches(options.train_steps))],
            lambda p: val_loss(tree_unflatten(p, form)),
            rule.start(flat, options.moments),
            kappa.detach().requires_grad_(),
            rule,
            options,
        )

    @property
    def auxiliary(self) -> list[Step]:
        return [step for step in self.steps if step.auxiliary]

    def trajectory(self) -> tuple[list[Parameters], Parameters]:
        """The parameters before each step, and those after the last."""
        before, state = [], self.start
        for step in self.steps:
            before.append(state.parameters)
            state = run([step], state, self.kappa, self.rule)
        return before, state.parameters

    def validation_gradient(self, parameters: Parameters) -> list[Tensor | None]:
        """v; None where a parameter does not enter."""
        inputs = leaves(parameters)
        v = list(grad(self.val(inputs), inputs))
        if all(g is None for g in v):
            raise ValueError("val_loss: the parameters do not enter it, so that no weight can matter")
        return v

    def along(self, step: Step, parameters: Parameters, v: Sequence[Tensor | None]) -> tuple[list[Tensor], Tensor]:
        """The derivatives of ⟨v, G⟩ with respect to φ, which is the Hessian times v, and to κ."""
        inputs = leaves(parameters)
        product = dot(gradients(step, inputs, self.kappa, graph=True), v)
        *of_phi, of_kappa = grad(product, [*inputs, self.kappa])
        return filled(of_phi, inputs), filled([of_kappa], [self.kappa])[0]

    def of_kappa(self, found: Tensor | None) -> Tensor:
        """A derivative with respect to κ; where autograd found none, zeros, or the reason."""
        if found is not None:
            return found
        if grad(self.steps[0].loss(self.start.parameters, self.kappa), [self.kappa])[0] is None:
            raise ValueError("aux_loss: task weights do not enter the auxiliary loss (kappa is not used)")
        return torch.zeros_like(self.kappa)


def dot(left: Sequence[Tensor | None], right: Sequence[Tensor | None]) -> Tensor:
    """The inner product of two lists; None is zero."""
    parts = [(a * b).sum() for a, b in zip(left, right, strict=True) if a is not None and b is not None]
    return torch.stack(parts).sum() if parts else torch.zeros(())


def _count(steps: int | Sequence[Any]) -> int:
    return steps if isinstance(steps, int) else len(steps)


def _batches(steps: int | Sequence[Any]) -> list[tuple[Any, ...]]:
    return [()] * steps if isinstance(steps, int) else [(batch,) for batch in steps]


def _moved(params: Any, keys: Sequence[str] | None) -> tuple[bool, ...]:
    """Which tensors the training steps move."""
    if keys is None:
        return (True,) * len(tree_flatten(params)[0])
    if not isinstance(params, dict) or not set(keys) <= params.keys():
        raise ValueError(f"train_keys: got {list(keys)}, need keys of the dict params")
    return tuple(key in keys for key, value in params.items() for _ in tree_flatten(value)[0])
