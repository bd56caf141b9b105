"""How the latent state moves: gated transitions of state and intervention, and the roll-out beyond the trigger."""

# Shape legend: U interventions, Z latent, K slots; "..." any batch axes

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from tenfold.clinical.state_space_config import StateSpaceConfig
from tenfold.nn.linear import Linear


def mlp(inputs: int, outputs: int, layers: int, width: int, generator: torch.Generator) -> nn.Sequential:
    """`layers` - 1 ReLU layers of `width`, then a linear layer."""
    sizes = [inputs, *[width] * (layers - 1)]
    hidden = [
        part
        for size, following in pairwise(sizes)
        for part in (Linear(size, following, bias=True, generator=generator), nn.ReLU())
    ]
    return nn.Sequential(*hidden, Linear(sizes[-1], outputs, bias=True, generator=generator))


class GatedTransition(nn.Module):
    """(1 - g) ⊙ (W v + b) + g ⊙ h(v), with a gate g in (0, 1) and h networks of the same input v.

    Source: Krishnan et al. 2017, arXiv 1609.09869, section 4; here the linear part is weighed by 1 - g for every input.
    """

    def __init__(self, inputs: int, outputs: int, layers: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.gate = mlp(inputs, outputs, layers, width, generator)
        self.nonlinear = mlp(inputs, outputs, layers, width, generator)
        self.linear = Linear(inputs, outputs, bias=True, generator=generator)

    def forward(self, v: Tensor) -> Tensor:
        """Args: v (..., inputs). Returns: (..., outputs)."""
        return torch.lerp(self.linear(v), self.nonlinear(v), self.gate(v).sigmoid())


class Dynamics(nn.Module):
    """p(z_t | z_(t-1), u_t) and, where interventions are forecast, p(u_(t+1) | z_t): their means.

    Args:
        control: let interventions move the state.
    """

    def __init__(self, config: StateSpaceConfig, generator: torch.Generator, *, control: bool) -> None:
        super().__init__()
        z, u = config.z_dim, config.n_interv
        self.state = GatedTransition(z, z, config.stran_nmlp, config.stran_smlp, generator)
        # The state keeps its value until it is taught otherwise.
        nn.init.eye_(self.state.linear.weight)
        self.control = GatedTransition(u, z, config.ctran_nmlp, config.ctran_smlp, generator) if control else None
        forecast = config.forecast_interv
        self.interv = mlp(z, u, config.interv_nmlp, config.interv_smlp, generator) if forecast else None

    def mean(self, previous: Tensor, u: Tensor) -> Tensor:
        """A(z_(t-1)) + B(u_t).

        Args:
            previous: (..., Z).
            u: (..., U); U may be 0.
        """
        after = self.state(previous)
        return after if self.control is None else after + self.control(u)

    def next_interv(self, z: Tensor) -> Tensor:
        """I(z_t), the mean of u_(t+1), in (0, 1): (..., U)."""
        if self.interv is None:
            raise ValueError("forecast_interv: got False, need a model that forecasts interventions")
        return self.interv(z).sigmoid()

    def roll_out(self, start: Tensor, steps: int, u_future: Tensor | None = None) -> Tensor:
        """The states after the trigger: s_k = A(s_(k-1)) + B(û_k).

        Args:
            start: s_0, (..., Z).
            steps: K.
            u_future: û, (..., K, U), whose batch axes broadcast; None takes the forecast I(s_(k-1)), or leaves B out
                where the model forecasts none.
        Returns:
            s_1..s_K, (..., K, Z).
        """
        pushes = None if u_future is None or self.control is None else self.control(u_future)
        state, states = start, []
        for k in range(steps):
            after = self.state(state)
            if pushes is not None:
                after = after + pushes[..., k, :]
            elif self.control is not None and self.interv is not None:
                after = after + self.control(self.next_interv(state))
            state = after
            states.append(state)
        return torch.stack(states, -2)
