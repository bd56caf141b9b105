"""What is read off survival curves: expected times, probabilities of windows, correlations of events, tables."""

# Shape legend: B patients, E events, K slots

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tenfold.clinical.event_law import EventLaw
from tenfold.clinical.survival_model import Batch, SurvivalModel

if TYPE_CHECKING:
    import pandas as pd

OFFICIAL_SLOTS = 480  # slots that the released code sums an expected time over, whatever their size


def predicted_time(
    survival: Tensor, slot_hours: float, *, official: bool = True, last_slot_loss: bool = False
) -> Tensor:
    """Expected time of the event; its inverse is the risk that patients are ranked by.

    Args:
        survival: S at the end of slot k = 0..K, (B, K + 1).
        slot_hours: hours of a slot.
        official: sum 480 slots, each at the survival one slot too late, as the released code does; False is `rmst` over
            the horizon.
        last_slot_loss: let survival fall on beyond the horizon at the last hazard; False holds it.
    Returns:
        hours, (B,).
    """
    _check(survival, slot_hours)
    if not official:
        return rmst(survival, slot_hours)
    last = survival.shape[1] - 1
    step = torch.arange(OFFICIAL_SLOTS, device=survival.device) + 2
    curve = survival[:, step.clamp(max=last)]
    if last_slot_loss:
        before, end = survival[:, -2:].unbind(1)
        stay = torch.where(before > 0, end / before, 0.0)
        curve = curve * stay[:, None] ** (step - last).clamp(min=0)
    return slot_hours * curve.sum(1)


def rmst(survival: Tensor, slot_hours: float, tau: float | None = None) -> Tensor:
    """Restricted mean survival time ∫_0^tau S, S constant within a slot.

    Args:
        survival: S at the end of slot k = 0..K, (B, K + 1).
        slot_hours: hours of a slot.
        tau: hours, at most the horizon, which None stands for.
    Returns:
        hours, (B,).
    """
    _check(survival, slot_hours)
    slots = survival.shape[1] - 1
    tau = slots * slot_hours if tau is None else tau
    if not 0 <= tau <= slots * slot_hours * (1 + 1e-12):
        raise ValueError(f"tau: got {tau} h, need 0..{slots * slot_hours} (the horizon)")
    covered = (tau / slot_hours - torch.arange(slots, dtype=torch.float64)).clamp(0, 1)
    return slot_hours * (survival[:, :-1] @ covered.to(survival))


def window_probability(
    survival: Tensor, slot_hours: float, start: float, end: float, *, official: bool = False
) -> Tensor:
    """P(start < T <= end) = S(start) - S(end).

    Args:
        survival: S at the end of slot k = 0..K, (B, K + 1).
        slot_hours: hours of a slot.
        start, end: hours, 0 <= start < end. An end beyond the horizon takes in all later events: S is 0 there.
        official: S at a time t is that of floor(t / slot_hours) + 1 slots, one too many at the end of a slot (released
            code); a start of 0 is 1 all the same.
    Returns:
        (B,).
    """
    _check(survival, slot_hours)
    if not 0 <= start < end:
        raise ValueError(f"start, end: got {start}, {end}, need 0 <= start < end")
    slots = survival.shape[1] - 1

    def at(hours: float) -> Tensor:
        if hours > slots * slot_hours * (1 + 1e-12):
            return torch.zeros_like(survival[:, 0])
        # A hair more, so that 3 × 0.1 h ends slot 3.
        slot = math.floor(hours / slot_hours * (1 + 1e-12)) + (official and hours > 0)
        return survival[:, min(slot, slots)]

    return at(start) - at(end)


def event_correlation(survival: Mapping[str, Tensor], *, within: bool = False) -> Tensor:
    """How events go together, by Pearson's correlation.

    Args:
        survival: of each event, (B, K + 1).
        within: correlate the hazards of two events over the slots that both have, patient by patient; else the
            logarithms of the cumulative hazards at the horizon, over patients.
    Returns:
        (E, E), or (B, E, E) with `within`; NaN where a side does not vary.
    """
    if within:
        slots = min(curve.shape[1] for curve in survival.values())
        rows = torch.stack([-_log(curve)[:, :slots].diff(dim=1).expm1() for curve in survival.values()], 1)
    else:
        rows = log_cumulative_hazards(survival)
    centred = rows - rows.mean(-1, keepdim=True)
    unit = centred / centred.norm(dim=-1, keepdim=True)
    return (unit @ unit.mT).clamp(-1, 1)


def log_cumulative_hazards(survival: Mapping[str, Tensor]) -> Tensor:
    """log(-log S) at the horizon of each event and patient, (E, B).

    Args:
        survival: of each event, (B, K + 1).
    """
    return torch.stack([_log(-_log(curve[:, -1])) for curve in survival.values()])


def joint_survival(laws: Mapping[str, EventLaw], events: Sequence[str]) -> Tensor:
    """P(none of the events by the end of slot k) where each draw of the state makes them independent.

    Args:
        laws: of N draws, (N, B, K) by the event's name, as `DeepStateSpace.drawn_laws` gives them; the same draws for all.
        events: some of them, on grids of equal slots.
    Returns:
        (B, K + 1), K the least number of slots; 1 first.
    """
    if not events or not set(events) <= laws.keys():
        raise ValueError(f"events: got {', '.join(events) or 'none'}, need some of {', '.join(laws)}")
    curves = [laws[name].log_survival for name in dict.fromkeys(events)]
    slots = min(curve.shape[-1] for curve in curves)
    together = torch.stack([curve[..., :slots] for curve in curves]).sum(0)
    return (together.logsumexp(0) - math.log(len(together))).exp()


class StepFunction:
    """A curve as a callable: constant between its times, with the new value at each of them.

    Args:
        x: times, increasing.
        y: values at and after each time.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        if x.ndim != 1 or x.shape != y.shape:
            raise ValueError(f"y: got shape {y.shape}, need {x.shape} as x, one axis")
        self.x, self.y = x, y

    @property
    def domain(self) -> tuple[float, float]:
        """First and last time."""
        return float(self.x[0]), float(self.x[-1])

    def __call__(self, times: float | np.ndarray) -> np.ndarray:
        """The values at any times within the domain.

        Raises:
            ValueError: a time outside.
        """
        given = np.asarray(times, dtype=np.float64)
        first, last = self.domain
        if not ((given >= first) & (given <= last)).all():
            raise ValueError(f"times: got {given.min()}..{given.max()}, need {first}..{last}")
        return self.y[np.searchsorted(self.x, given, side="right") - 1]


def survival_frame(model: SurvivalModel, batch: Batch, event: str) -> pd.DataFrame:
    """Survival curves as pycox gives them: a row a time in hours, from 0 on, a column a patient.

    Raises:
        ValueError: an event that the model does not know.
    """
    import pandas as pd

    specs = {spec.name: spec for spec in model.events}
    if event not in specs:
        raise ValueError(f"event: got {event!r}, need one of {', '.join(specs)}")
    with torch.no_grad():
        curves = model.survival(batch)[event].cpu().numpy()
    hours = np.arange(specs[event].n_slots + 1) * specs[event].slot_hours
    return pd.DataFrame(curves.T, index=pd.Index(hours, name="hours"))


def _log(values: Tensor) -> Tensor:
    """The logarithm, finite at 0."""
    return values.clamp(min=torch.finfo(values.dtype).tiny).log()


def _check(survival: Tensor, slot_hours: float) -> None:
    if survival.ndim != 2 or survival.shape[1] < 2:
        raise ValueError(f"survival: got shape {tuple(survival.shape)}, need (B, K + 1)")
    if not 0 < slot_hours < math.inf:
        raise ValueError(f"slot_hours: got {slot_hours}, need a number above 0")
