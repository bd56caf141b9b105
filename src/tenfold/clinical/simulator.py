"""A hospital whose law is known: patients move between four hidden states, treatment follows the state, and several
events strike by it. Filter, survival of one event, of several at once and under a forced treatment are exact.
"""

# Shape legend: N patients, T context steps, K slots, S states, D observations, U treatments (1), E events

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tenfold.clinical.events import EventSpec, EventTimeDataset
from tenfold.clinical.survival_inputs import Bools, Floats, Values, as_array

Ints = NDArray[np.int64]
EVENTS = ("kidney", "circulatory", "death")


class SimulatedPatients(NamedTuple):
    """What was drawn, with what no data would show: the hidden states, the treatment and event times to come."""

    x: Floats  # [N, T, D], 0 where missing
    mask: Bools  # [N, T, D]
    u: Floats  # [N, T, 1]
    state: Ints  # [N, T + K] in 0..3
    u_future: Floats  # [N, K, 1]
    slot: Ints  # [N, E] in 1..K, of the event or of censoring
    observed: Bools  # [N, E]
    first: Ints  # [N, E] slot of the first occurrence, censored or not; K + 1 for none


class HmmIcuSim:
    """Hidden Markov model of a ward, one step an hour: treatment, then the state it acts on, then events.

    Events fire after the trigger only, none ends the stay, and of each the first occurrence counts.

    Args:
        context: hours T seen before the trigger.
        horizon: slots K of one hour after it.
        p_observe: probability that an entry of x is observed.
        p_censor: probability of censoring at a slot that is uniform on 1..K; all others are censored at K.
    """

    initial = np.array([0.55, 0.25, 0.15, 0.05])
    transition = np.array(  # [treated, from, to]
        [
            [[0.98, 0.016, 0.003, 0.001], [0.03, 0.92, 0.04, 0.01], [0.006, 0.034, 0.91, 0.05], [0.001, 0.005, 0.034, 0.96]],
            [[0.985, 0.012, 0.002, 0.001], [0.07, 0.90, 0.025, 0.005], [0.02, 0.10, 0.86, 0.02], [0.005, 0.025, 0.12, 0.85]],
        ]
    )  # fmt: skip
    policy = np.array([0.05, 0.2, 0.5, 0.8])  # of treatment, by the state an hour before
    hazard = np.array([[0.0005, 0.004, 0.03, 0.06], [0.001, 0.008, 0.04, 0.12], [0.0002, 0.001, 0.008, 0.05]])  # [E, S]
    mean = np.array(  # [S, D]
        [
            [0, 0, 0, 0, 0, 0],
            [0.6, -0.3, 0.2, 0.5, 0, 0.1],
            [1.3, -0.8, 0.6, 0.4, 0.9, 0.2],
            [2, -1.6, 1.4, 0.2, 0.7, 1.1],
        ]
    )
    sd = 0.8

    def __init__(self, context: int = 24, horizon: int = 24, p_observe: float = 0.5, p_censor: float = 0.3) -> None:
        for name, steps in (("context", context), ("horizon", horizon)):
            if steps < 1:
                raise ValueError(f"{name}: got {steps}, need at least 1")
        for name, share in (("p_observe", p_observe), ("p_censor", p_censor)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name}: got {share}, need a probability")
        self.context, self.horizon, self.p_observe, self.p_censor = context, horizon, p_observe, p_censor
        self.events = tuple(EventSpec(name, 1.0, horizon) for name in EVENTS)

    # ---- drawing patients

    def sample(
        self, patients: int, generator: np.random.Generator | int, *, do: Values | None = None
    ) -> SimulatedPatients:
        """Draw patients.

        Args:
            patients: N.
            generator: source of all randomness, or its seed.
            do: treatments of 0 and 1 forced after the trigger, [K] for all or [N, K] or [N, K, 1]; None: by policy.
        """
        generator = np.random.default_rng(generator)
        steps, forced = self.context + self.horizon, self._forced(do, patients)
        state, u = np.empty((patients, steps), dtype=np.int64), np.zeros((patients, steps))
        state[:, 0] = _draw(np.broadcast_to(self.initial, (patients, 4)), generator)
        for t in range(1, steps):
            before, after = state[:, t - 1], t - self.context
            u[:, t] = generator.random(patients) < self.policy[before]
            if forced is not None and after >= 0:
                u[:, t] = forced[:, after]
            state[:, t] = _draw(self.transition[u[:, t].astype(np.int64), before], generator)
        seen = (patients, self.context, self.mean.shape[1])
        mask = generator.random(seen) < self.p_observe
        x = self.mean[state[:, : self.context]] + self.sd * generator.standard_normal(seen)
        first = self._first(state[:, self.context :], generator)
        short = generator.random(patients) < self.p_censor
        until = np.where(short, generator.integers(1, self.horizon + 1, patients), self.horizon)[:, None]
        past, future = u[:, : self.context, None], u[:, self.context :, None]
        return SimulatedPatients(
            np.where(mask, x, 0.0), mask, past, state, future, np.minimum(first, until), first <= until, first
        )

    def dataset(self, patients: int, generator: np.random.Generator | int) -> EventTimeDataset:
        """Patients as the models read them; an event or censoring of slot k stands in the middle of its hour.

        Args: as of `sample`.
        """
        drawn = self.sample(patients, generator)
        return EventTimeDataset(
            ids=[f"sim{row}" for row in range(patients)],
            x=drawn.x.astype(np.float32),
            mask=drawn.mask,
            u=drawn.u.astype(np.float32),
            length=np.full(patients, self.context, dtype=np.int64),
            static=np.zeros((patients, 0), dtype=np.float32),
            time_hours=(drawn.slot - 0.5).astype(np.float64),
            observed=drawn.observed,
            at_risk=np.ones_like(drawn.observed),
            events=self.events,
            observation_names=tuple(f"x{d}" for d in range(self.mean.shape[1])),
            intervention_names=("treatment",),
        )

    def _first(self, state_NK: Ints, generator: np.random.Generator) -> Ints:
        """Slot of the first occurrence of each event [N, E], K + 1 for none."""
        fired = generator.random((len(self.hazard), *state_NK.shape)) < self.hazard[:, state_NK]
        return np.where(fired.any(-1), fired.argmax(-1) + 1, self.horizon + 1).T

    # ---- the exact law

    def filter(self, x: Values, mask: Values, u: Values) -> tuple[Floats, Floats]:
        """What the context says of the state at its end.

        Args:
            x: [N, T, D]; entries outside the mask are not looked at.
            mask: [N, T, D].
            u: [N, T, 1] of 0 and 1. The first step has no treatment, and its entry is not looked at; the others tell
                of the state before them too, through the policy.
        Returns:
            alpha [N, S], P(s_T | x, u); and log P(x, u) [N].
        """
        seen, treated = self._context(x, mask, u)
        log_emission = self._log_emission(x, seen)
        log_likelihood = np.zeros(len(seen))
        alpha = np.broadcast_to(self.initial, (len(seen), 4))
        for t in range(seen.shape[1]):
            if t > 0:
                chosen = np.where(treated[:, t, None], self.policy, 1 - self.policy)
                alpha = self._step(alpha * chosen, treated[:, t])
            # Relative to the likeliest state: a stay with many observations would underflow otherwise.
            most = log_emission[:, t].max(-1, keepdims=True)
            alpha = alpha * np.exp(log_emission[:, t] - most)
            total = alpha.sum(-1, keepdims=True)
            alpha, log_likelihood = alpha / total, log_likelihood + (np.log(total) + most)[:, 0]
        return alpha, log_likelihood

    def true_survival(self, x: Values, mask: Values, u: Values, *, do: Values | None = None) -> dict[str, Floats]:
        """P(no event up to the end of slot k) of each event for k = 0..K, given the context.

        Args:
            x, mask, u: the context, as in `filter`.
            do: treatments of 0 and 1 forced after the trigger, [K] for all or [N, K] or [N, K, 1]; None: by policy.
        Returns:
            event to [N, K + 1]; the first column is 1.
        """
        alpha, _ = self.filter(x, mask, u)
        return {name: self._survival(alpha, self.hazard[e : e + 1], do) for e, name in enumerate(EVENTS)}

    def joint_survival(
        self, x: Values, mask: Values, u: Values, events: Sequence[str] = EVENTS, *, do: Values | None = None
    ) -> Floats:
        """P(none of the events up to the end of slot k), [N, K + 1]; arguments as in `true_survival`."""
        if unknown := [name for name in events if name not in EVENTS]:
            raise ValueError(f"events: got {unknown[0]!r}, need some of {', '.join(EVENTS)}")
        alpha, _ = self.filter(x, mask, u)
        return self._survival(alpha, self.hazard[[EVENTS.index(name) for name in events]], do)

    def _survival(self, alpha: Floats, hazard_ES: Floats, do: Values | None) -> Floats:
        forced, stay = self._forced(do, len(alpha)), np.prod(1 - hazard_ES, axis=0)
        by_policy = np.einsum("us,usz->sz", np.stack([1 - self.policy, self.policy]), self.transition)
        survival = np.ones((len(alpha), self.horizon + 1))
        for k in range(self.horizon):
            alpha = alpha @ by_policy if forced is None else self._step(alpha, forced[:, k])
            alpha = alpha * stay
            survival[:, k + 1] = alpha.sum(-1)
        return survival

    def _step(self, alpha: Floats, treated: Bools) -> Floats:
        """The distribution of the state [N, S], an hour later."""
        return np.where(treated[:, None], alpha @ self.transition[1], alpha @ self.transition[0])

    def _log_emission(self, x: Values, seen: Bools) -> Floats:
        """log p of the observed entries in each state, [N, T, S]."""
        values = np.where(seen, np.asarray(x, dtype=np.float64), 0.0)
        # |x - m|² over what was seen, multiplied out: no axis of states beside that of observations.
        squares = (values**2 * seen).sum(-1)[..., None] - 2 * values @ self.mean.T + seen @ (self.mean**2).T
        constant = np.log(2 * np.pi * self.sd**2) * seen.sum(-1)[..., None]
        return -0.5 * (squares / self.sd**2 + constant)

    def _context(self, x: Values, mask: Values, u: Values) -> tuple[Bools, Bools]:
        shape, seen, treated = np.shape(x), as_array("mask", mask), as_array("u", u)
        if len(shape) != 3 or shape[1] < 1 or shape[2] != self.mean.shape[1]:
            raise ValueError(f"x: got shape {list(shape)}, need [N, T, {self.mean.shape[1]}]")
        if seen.shape != shape:
            raise ValueError(f"mask: got shape {list(seen.shape)}, need {list(shape)} as x")
        if treated.shape != (*shape[:2], 1):
            raise ValueError(f"u: got shape {list(treated.shape)}, need {[*shape[:2], 1]}")
        return seen.astype(bool), _binary("u", treated[..., 0])

    def _forced(self, do: Values | None, patients: int) -> Bools | None:
        if do is None:
            return None
        values = as_array("do", do)
        values = values[..., 0] if values.ndim == 3 and values.shape[-1] == 1 else values
        if values.shape not in ((self.horizon,), (patients, self.horizon)):
            raise ValueError(f"do: got shape {list(values.shape)}, need [{self.horizon}] or {[patients, self.horizon]}")
        return np.broadcast_to(_binary("do", values), (patients, self.horizon))


def _binary(name: str, values: NDArray) -> Bools:
    if not np.isin(values, (0, 1)).all():
        raise ValueError(f"{name}: got other values, need 0 or 1")
    return values.astype(bool)


def _draw(probability: Floats, generator: np.random.Generator) -> Ints:
    """One index a row, [N], of rows of probabilities [N, S]."""
    below = probability.cumsum(-1)[:, :-1] < generator.random((len(probability), 1))
    return below.sum(-1)
