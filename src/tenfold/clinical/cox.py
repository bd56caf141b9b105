"""Cox's model of the most recent values: the baseline that clinicians know."""

# Shape legend: B batch, E events, K slots, F features

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from tenfold.clinical.event_law import EventLaw
from tenfold.clinical.events import EventSpec
from tenfold.clinical.history import read_history
from tenfold.clinical.state_space_config import StateSpaceConfig
from tenfold.clinical.survival_baselines import last_values
from tenfold.clinical.survival_losses import cox_ph_loss
from tenfold.clinical.survival_model import Batch, SurvivalModel, check_labels


class CoxPH(SurvivalModel):
    """Cox's proportional hazards on the last values, by the partial likelihood, with Breslow's baseline.

    Args:
        n_obs, n_interv, events, n_static: as in `StateSpaceConfig`.
        ridge: weight of half the squared norm of the coefficients beside the mean loss over the events.
        ties: "efron" or "breslow".
    Source: Cox 1972, 1975; Efron 1977; Breslow 1974.
    """

    def __init__(
        self,
        n_obs: int,
        n_interv: int,
        events: Sequence[EventSpec],
        *,
        n_static: int = 0,
        ridge: float = 0.05,
        ties: Literal["efron", "breslow"] = "efron",
    ) -> None:
        super().__init__()
        if not 0 <= ridge < math.inf:
            raise ValueError(f"ridge: got {ridge}, need a finite number, at least 0")
        self.config = StateSpaceConfig(n_obs=n_obs, n_interv=n_interv, events=tuple(events), n_static=n_static)
        self.events, self.ridge, self.ties = self.config.events, ridge, ties
        features = n_obs + n_interv + n_static
        self.register_buffer("coefficients", torch.zeros(len(self.events), features, dtype=torch.float64))
        for index, event in enumerate(self.events):
            self.register_buffer(f"log_stay_{index}", torch.zeros(event.n_slots, dtype=torch.float64))

    coefficients: Tensor

    def fit(self, batch: Batch) -> CoxPH:
        """Estimate coefficients and baseline of each event from all patients at once.

        Args:
            batch: x, mask, u, length, static, slot, observed, at_risk.
        Raises:
            ValueError: an event that nobody has.
        """
        features = self._features(batch)
        slot, observed, at_risk = (
            check_labels(batch, name, len(self.events)) for name in ("slot", "observed", "at_risk")
        )
        for index, event in enumerate(self.events):
            rows = at_risk[:, index].bool()
            if not bool((observed[:, index].bool() & rows).any()):
                raise ValueError(f"observed: got no event {event.name!r} among {int(rows.sum())} patients at risk")
            x, slots, seen = features[rows], slot[rows, index], observed[rows, index].bool()
            self.coefficients[index] = self._solve(x, slots, seen)
            risk = (x @ self.coefficients[index]).exp()
            k = torch.arange(1, event.n_slots + 1, device=x.device)
            deaths = ((slots[:, None] == k) & seen[:, None]).sum(0)
            followed = ((slots[:, None] >= k) * risk[:, None]).sum(0)
            self.get_buffer(f"log_stay_{index}").copy_(-deaths / followed.clamp(min=torch.finfo(risk.dtype).tiny))
        return self

    def laws(self, batch: Batch) -> dict[str, EventLaw]:
        risk_BE = (self._features(batch) @ self.coefficients.T).exp()
        return {
            event.name: EventLaw.from_log_stay(risk_BE[:, index, None] * self.get_buffer(f"log_stay_{index}"))
            for index, event in enumerate(self.events)
        }

    def _features(self, batch: Batch) -> Tensor:
        history = read_history(batch, self.config.n_obs, self.config.n_interv, self.config.n_static)
        return last_values(history).double()

    def _solve(self, x_BF: Tensor, slots: Tensor, observed: Tensor) -> Tensor:
        """The coefficients (F,) that minimise the ridged partial likelihood."""
        beta = torch.zeros(x_BF.shape[1], dtype=x_BF.dtype, device=x_BF.device, requires_grad=True)
        solver = torch.optim.LBFGS(
            [beta], max_iter=500, tolerance_grad=1e-9, tolerance_change=1e-13, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            solver.zero_grad()
            loss = cox_ph_loss(x_BF @ beta, slots, observed, ties=self.ties) + 0.5 * self.ridge * beta.square().sum()
            loss.backward()
            return loss

        with torch.enable_grad():
            solver.step(closure)
        return beta.detach()
