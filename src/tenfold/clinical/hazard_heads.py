"""From an encoding of the patient at the trigger to the law of each event."""

# Shape legend: Z encoding, E events, K slots, U interventions; "..." any batch axes

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tenfold.clinical.event_law import EventLaw
from tenfold.clinical.state_space_config import StateSpaceConfig
from tenfold.clinical.transitions import Dynamics, mlp
from tenfold.nn.linear import Linear

SECONDS = 3600.0  # of an hour
LOG_RATE = -13.0  # of the exponential head: per second, about one event in five days


class StateHead(nn.Module):
    """Hazards of every event along the state's path after the trigger.

    Args:
        config: of the roll-out and the networks.
        inputs: width of the encoding, Z where None. Another width is possible under head "official" alone.
    """

    def __init__(self, config: StateSpaceConfig, generator: torch.Generator, inputs: int | None = None) -> None:
        super().__init__()
        self.slots = [event.n_slots for event in config.events]
        self.delta = config.forecast_delta
        shared = config.head == "official"
        z, events = config.z_dim, len(self.slots)
        self.start = Linear(inputs or z, z * events, bias=True, generator=generator) if shared else None
        self.networks = nn.ModuleList(
            mlp(z, 1, config.hazard_nmlp, config.hazard_smlp, generator) for _ in range(1 if shared else events)
        )
        for network, slots in zip(self.networks, [max(self.slots)] if shared else self.slots, strict=True):
            # About one event within the horizon, to begin with.
            nn.init.constant_(list(network.parameters())[-1], -math.log(slots))

    def forward(self, encoding: Tensor, dynamics: Dynamics, u_future: Tensor | None = None) -> list[EventLaw]:
        """The law of each event.

        Args:
            encoding: (..., Z).
            dynamics: of the roll-out.
            u_future: see `Dynamics.roll_out`.
        """
        logits = self._logits(encoding, dynamics, u_future)
        if self.delta:
            return [EventLaw.from_hazards(logit.sigmoid().cumsum(-1)) for logit in logits]
        return [EventLaw.from_logits(logit) for logit in logits]

    def _logits(self, encoding: Tensor, dynamics: Dynamics, u_future: Tensor | None) -> list[Tensor]:
        if self.start is None:
            states = dynamics.roll_out(encoding, max(self.slots), u_future)
            pairs = zip(self.networks, self.slots, strict=True)
            return [network(states[..., :slots, :]).squeeze(-1) for network, slots in pairs]
        starts = self.start(encoding).unflatten(-1, (len(self.slots), -1))
        u_future = None if u_future is None else u_future[..., None, :, :]
        logits = self.networks[0](dynamics.roll_out(starts, max(self.slots), u_future)).squeeze(-1)
        return [logits[..., event, :slots] for event, slots in enumerate(self.slots)]


class ConstantRate(nn.Module):
    """Laws of events whose rate does not change: S(t) = exp(-rate · t), seen at the ends of the slots."""

    def __init__(self, config: StateSpaceConfig, generator: torch.Generator, inputs: int | None = None) -> None:
        super().__init__()
        self.events = config.events
        self.rate = Linear(inputs or config.z_dim, len(config.events), bias=True, generator=generator)

    def forward(self, encoding: Tensor) -> list[EventLaw]:
        """Args: encoding (..., Z). Returns: the law of each event."""
        log_rate = self.rate(encoding)
        laws = []
        for index, event in enumerate(self.events):
            rate = (log_rate[..., index, None] + self.log_unit(event.slot_hours)).exp()
            laws.append(EventLaw.from_log_stay(-rate.expand(*rate.shape[:-1], event.n_slots)))
        return laws

    def log_unit(self, slot_hours: float) -> float:
        """Logarithm of what makes the exponential of the output a rate per slot."""
        raise NotImplementedError


class ExponentialHead(ConstantRate):
    """A constant rate of exp(output - 13) per second (official)."""

    def log_unit(self, slot_hours: float) -> float:
        return LOG_RATE + math.log(SECONDS * slot_hours)


class CoxHead(ConstantRate):
    """A constant rate of exp(w · x + b) per slot, w and b near 0: an exponential model in spite of its name (official).

    `cox.CoxPH` is the model of Cox.
    """

    def __init__(self, config: StateSpaceConfig, generator: torch.Generator, inputs: int | None = None) -> None:
        super().__init__(config, generator, inputs)
        for parameter, mean in ((self.rate.weight, 0.0), (self.rate.bias, 0.01)):
            if not parameter.is_meta:
                nn.init.trunc_normal_(parameter, mean, 0.01, mean - 0.02, mean + 0.02, generator=generator)

    def log_unit(self, slot_hours: float) -> float:
        return 0.0


class DirectHead(nn.Module):
    """A linear map to the law of each event: the hazards of its slots, or with `pmf` their probabilities (DeepHit)."""

    def __init__(
        self, config: StateSpaceConfig, generator: torch.Generator, inputs: int | None = None, *, pmf: bool = False
    ) -> None:
        super().__init__()
        self.pmf = pmf
        self.slots = [event.n_slots for event in config.events]
        self.outputs = Linear(inputs or config.z_dim, sum(self.slots), bias=True, generator=generator)
        with torch.no_grad():
            for part, slots in zip(self.outputs.bias.split(self.slots), self.slots, strict=True):
                part.fill_(-math.log(slots))

    def forward(self, encoding: Tensor) -> list[EventLaw]:
        """Args: encoding (..., Z). Returns: the law of each event."""
        law = EventLaw.from_pmf_logits if self.pmf else EventLaw.from_logits
        return [law(logits) for logits in self.outputs(encoding).split(self.slots, -1)]
