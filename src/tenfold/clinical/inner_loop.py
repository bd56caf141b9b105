"""Training steps that can be differentiated: SGD and Adam on plain tensors, each step a function of the one before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

Optimizer = Literal["sgd", "adam"]
Parameters = list[Tensor]


class Moments(NamedTuple):
    """What Adam remembers of one parameter: averages of the gradient and of its square, and the steps taken."""

    first: Tensor
    second: Tensor
    steps: int


@dataclass(frozen=True)
class Step:
    """One step of training.

    Args:
        loss: loss(parameters, kappa), a scalar.
        lr: its rate.
        moves: which parameters it moves, one flag each.
        auxiliary: whether kappa enters its loss.
    """

    loss: Callable[[Parameters, Tensor], Tensor]
    lr: float
    moves: tuple[bool, ...]
    auxiliary: bool = True


@dataclass(frozen=True)
class Rule:
    """The update of one parameter p with gradient g.

    SGD: p - lr·g. Adam: p - lr·m̂ / (√(v̂ + eps_root) + eps), m̂ and v̂ the averages divided by 1 - βᵗ.

    Args:
        kind: "sgd" or "adam".
        betas: decay of Adam's averages.
        eps: in Adam's divisor.
        eps_root: below the root, whose derivative at 0 is else infinite.
    """

    kind: Optimizer = "sgd"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    eps_root: float = 1e-24

    def start(self, parameters: Sequence[Tensor], moments: Sequence[Moments] | None = None) -> State:
        """Args: moments, of an optimizer under way; None begins anew."""
        if moments is None:
            # SGD remembers nothing.
            shapes = [p.shape if self.kind == "adam" else (0,) for p in parameters]
            moments = [Moments(p.new_zeros(s), p.new_zeros(s), 0) for p, s in zip(parameters, shapes, strict=True)]
        if len(moments) != len(parameters):
            raise ValueError(f"moments: got {len(moments)}, need {len(parameters)}, one for each parameter")
        return State([p.detach() for p in parameters], list(moments))

    def __call__(self, p: Tensor, g: Tensor, moments: Moments, lr: float) -> tuple[Tensor, Moments]:
        if self.kind == "sgd":
            return p - lr * g, moments
        first_decay, second_decay = self.betas
        steps = moments.steps + 1
        first = first_decay * moments.first + (1 - first_decay) * g
        second = second_decay * moments.second + (1 - second_decay) * g.square()
        root = (second / (1 - second_decay**steps) + self.eps_root).sqrt()
        return p - lr / (1 - first_decay**steps) * first / (root + self.eps), Moments(first, second, steps)


@dataclass(frozen=True)
class State:
    """Parameters and what the optimizer remembers of each."""

    parameters: Parameters
    moments: list[Moments]

    def tensors(self) -> list[Tensor]:
        return [*self.parameters, *(t for m in self.moments for t in (m.first, m.second))]

    def leaves(self) -> State:
        """Equal tensors from which derivatives are taken."""
        first, second = leaves([m.first for m in self.moments]), leaves([m.second for m in self.moments])
        moments = [Moments(a, b, m.steps) for a, b, m in zip(first, second, self.moments, strict=True)]
        return State(leaves(self.parameters), moments)

    def update(self, step: Step, gradients: Sequence[Tensor | None], rule: Rule) -> State:
        """One step; a parameter without a gradient stays, as in torch's optimizers."""
        pairs = [
            (p, m) if g is None or not moves else rule(p, g, m, step.lr)
            for p, m, g, moves in zip(self.parameters, self.moments, gradients, step.moves, strict=True)
        ]
        return State([p for p, _ in pairs], [m for _, m in pairs])


def gradients(step: Step, parameters: Parameters, kappa: Tensor, *, graph: bool = False) -> list[Tensor | None]:
    """∂loss/∂parameters; None for those that do not enter the loss. With `graph` they can be differentiated again."""
    return list(grad(step.loss(parameters, kappa), parameters, graph=graph))


def run(steps: Sequence[Step], state: State, kappa: Tensor, rule: Rule) -> State:
    """All steps, without a graph."""
    for step in steps:
        state = state.update(step, gradients(step, leaves(state.parameters), kappa), rule)
    return state


def trace(steps: Sequence[Step], state: State, kappa: Tensor, rule: Rule) -> State:
    """All steps, with the graph from the end back to `state` and kappa."""
    for step in steps:
        state = state.update(step, gradients(step, state.parameters, kappa, graph=True), rule)
    return state


def grad(
    value: Tensor | Sequence[Tensor],
    inputs: Sequence[Tensor],
    weights: Sequence[Tensor] | None = None,
    *,
    graph: bool = False,
) -> tuple[Tensor | None, ...]:
    """`autograd.grad` that gives None for what does not enter, also where nothing does."""
    values = [value] if isinstance(value, Tensor) else list(value)
    weights = [torch.ones_like(v) for v in values] if weights is None else list(weights)
    kept = [(v, w) for v, w in zip(values, weights, strict=True) if v.requires_grad]
    if not kept:
        return (None,) * len(inputs)
    outputs, cotangents = zip(*kept, strict=True)
    found: tuple[Tensor | None, ...] = torch.autograd.grad(
        outputs, inputs, cotangents, create_graph=graph, allow_unused=True
    )
    return found


def adam_moments(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> list[Moments]:
    """What a torch Adam remembers of the given parameters, for steps that go on from there."""

    def read(p: Tensor, state: Mapping[str, Any]) -> Moments:
        if "exp_avg" not in state:
            return Moments(torch.zeros_like(p), torch.zeros_like(p), 0)
        return Moments(state["exp_avg"].clone(), state["exp_avg_sq"].clone(), int(state["step"]))

    return [read(p.detach(), optimizer.state.get(p, {})) for p in parameters]


def leaves(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The same values, without their history, to take derivatives from."""
    return [tensor.detach().requires_grad_() for tensor in tensors]


def filled(found: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor]:
    """Gradients with zeros for None."""
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, like, strict=True)]
