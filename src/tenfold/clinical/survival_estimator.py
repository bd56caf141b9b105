"""A survival model behind scikit-learn's fit, predict and score."""

# Shape legend: N subjects, T steps, F columns, K slots

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from tenfold.clinical.curves import StepFunction, rmst
from tenfold.clinical.events import EventSpec, to_slots
from tenfold.clinical.state_space import DeepStateSpace, dssm_loss
from tenfold.clinical.survival_metrics import concordance_index
from tenfold.clinical.survival_model import event_loss
from tenfold.core.fit import TrainState, train_step
from tenfold.core.optim import Schedule
from tenfold.core.stream import ArrayStream, permutation

Labels = NDArray[np.void] | tuple[ArrayLike, ArrayLike]
EVENT = "event"
CHECK = 10  # steps between looks at the subjects kept aside


class SurvivalEstimator:
    """The deep state-space model for one event, as scikit-learn's tools and scikit-survival's users expect it.

    Args:
        n_slots: K, slots that times are cut into.
        horizon: end of the last slot, in the unit of the times; None is just after the last time seen in `fit`.
        z_dim: width of the latent state.
        steps: of training.
        batch_size: subjects a step.
        learning_rate: of Adam, falling to a tenth along a cosine.
        validation: share of the subjects kept aside; the weights that foresee them best are taken. 0: the last weights.
        seed: of initial weights, batches and draws.
        switches: further settings of `StateSpaceConfig`, such as {"infer_model": "lr"}.
    Attributes:
        model_: after `fit`, the model.
        event_times_: after `fit`, the K + 1 times of a curve, 0 first.
    """

    def __init__(
        self,
        n_slots: int = 24,
        horizon: float | None = None,
        z_dim: int = 16,
        steps: int = 300,
        batch_size: int = 128,
        learning_rate: float = 5e-3,
        validation: float = 0.2,
        seed: int = 0,
        switches: Mapping[str, Any] | None = None,
    ) -> None:
        self.n_slots, self.horizon, self.z_dim = n_slots, horizon, z_dim
        self.steps, self.batch_size, self.learning_rate = steps, batch_size, learning_rate
        self.validation, self.seed, self.switches = validation, seed, switches

    def fit(self, X: ArrayLike, y: Labels) -> SurvivalEstimator:
        """Train on subjects whose event or end of follow-up is known.

        Args:
            X: (N, F) values at the trigger, or (N, T, F) series up to it; NaN is missing.
            y: a structured array with one boolean field (observed) and one of numbers (time), as in scikit-survival; or
                (durations, events), as in pycox.
        Raises:
            ValueError: shapes that do not fit, times that are negative or not finite, no subject.
        """
        for name in ("n_slots", "steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, need at least 1")
        if not 0 <= self.validation < 1:
            raise ValueError(f"validation: got {self.validation}, need 0 <= validation < 1")
        x, mask = _series(X)
        time, observed = _labels(y, len(x))
        seen = np.where(mask, x, np.nan).reshape(-1, x.shape[2])
        count = mask.reshape(seen.shape).sum(0)
        self.mean_ = np.nansum(seen, 0) / np.maximum(count, 1)
        spread = np.sqrt(np.nansum((seen - self.mean_) ** 2, 0) / np.maximum(count, 1))
        self.scale_ = np.where(spread > 0, spread, 1.0)
        spec = self._grid(time)
        self.event_times_ = np.arange(spec.n_slots + 1) * spec.slot_hours
        self.model_ = DeepStateSpace(
            x.shape[2],
            0,
            (spec,),
            self.z_dim,
            generator=torch.Generator().manual_seed(self.seed),
            **{"analytic_kl": True, **(self.switches or {})},
        )
        slot, inside, tail = to_slots(time, observed, spec)
        labels = {"slot": slot, "observed": inside, "tail": tail, "at_risk": np.ones(len(x), dtype=bool)}
        columns = self._columns(x, mask) | {name: torch.from_numpy(part)[:, None] for name, part in labels.items()}
        self._train(columns)
        return self

    def predict_survival_function(self, X: ArrayLike, return_array: bool = False) -> NDArray[Any]:
        """Survival curves.

        Args:
            X: as in `fit`.
            return_array: give the values at `event_times_`, (N, K + 1), instead of callables.
        Returns:
            N step functions of time (an array of objects), or their values.
        """
        curves = self._survival(X).double().numpy()
        if return_array:
            return curves
        functions = np.empty(len(curves), dtype=object)
        functions[:] = [StepFunction(self.event_times_, curve) for curve in curves]
        return functions

    def predict_risk(self, X: ArrayLike) -> NDArray[np.float64]:
        """(N,) inverse of the mean time without the event up to the horizon: higher is worse."""
        return (1 / rmst(self._survival(X).double(), self.event_times_[1])).numpy()

    predict = predict_risk

    def score(self, X: ArrayLike, y: Labels) -> float:
        """Harrell's concordance of the risk."""
        risk = self.predict_risk(X)
        return concordance_index(*_labels(y, len(risk)), risk)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The settings by name, as scikit-learn's `clone` and searches ask for them."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **params: Any) -> SurvivalEstimator:
        """Change settings.

        Raises:
            ValueError: a name that is none.
        """
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise ValueError(f"{name}: not a setting, need one of {', '.join(known)}")
            setattr(self, name, value)
        return self

    def __sklearn_tags__(self) -> Any:
        """What cross-validation and searches of scikit-learn ask first; there it is installed."""
        from sklearn.utils import Tags, TargetTags

        return Tags(estimator_type=None, target_tags=TargetTags(required=True))

    def _grid(self, time: NDArray[np.float64]) -> EventSpec:
        # A hair beyond the last time, which would else lie past the last slot.
        horizon = float(time.max()) * (1 + 1e-6) if self.horizon is None else self.horizon
        if not 0 < horizon < math.inf:
            raise ValueError(f"horizon: got {horizon}, need a time above 0")
        return EventSpec(EVENT, horizon / self.n_slots, self.n_slots)

    def _train(self, columns: dict[str, Tensor]) -> None:
        order = torch.from_numpy(permutation(len(columns["x"]), self.seed, 0))
        held_out, rows = order.tensor_split([int(self.validation * len(order))])
        model, training = self.model_, {name: column[rows] for name, column in columns.items()}
        stream = ArrayStream(training, min(self.batch_size, len(rows)), seed=self.seed)
        optimizer = torch.optim.Adam(model.parameters(), self.learning_rate)
        state = TrainState(model, optimizer, Schedule(0, self.steps), stream, seed=self.seed)
        best, weights = math.inf, model.state_dict()
        batches = iter(stream)
        with torch.random.fork_rng():  # the step seeds torch; the caller's random state is not ours
            while state.step < self.steps:
                model.train()
                train_step(state, dssm_loss, [next(batches)], clip_norm=5.0)  # type: ignore[arg-type]
                if len(held_out) and (state.step % CHECK == 0 or state.step == self.steps):
                    loss = self._validate({name: column[held_out] for name, column in columns.items()})
                    if loss < best:
                        best, weights = loss, {name: part.clone() for name, part in model.state_dict().items()}
        model.load_state_dict(weights)
        model.eval()

    def _validate(self, batch: dict[str, Tensor]) -> float:
        self.model_.eval()
        with torch.no_grad():
            return float(event_loss(self.model_.laws(batch), batch, self.model_.events)[0])

    def _columns(self, x: NDArray[np.float64], mask: NDArray[np.bool_]) -> dict[str, Tensor]:
        scaled = np.where(mask, (x - self.mean_) / self.scale_, 0.0).astype(np.float32)
        length = torch.full((len(x),), x.shape[1], dtype=torch.int64)
        return {"x": torch.from_numpy(scaled), "mask": torch.from_numpy(mask), "length": length}

    def _survival(self, X: ArrayLike) -> Tensor:
        if not hasattr(self, "model_"):
            raise ValueError("model_: not there yet, call fit first")
        x, mask = _series(X)
        if x.shape[2] != len(self.mean_):
            raise ValueError(f"X: got {x.shape[2]} columns, need {len(self.mean_)} as in fit")
        with torch.no_grad():
            return self.model_.survival(self._columns(x, mask))[EVENT]


def _series(X: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Series (N, T, F) and where they were observed."""
    x = np.asarray(X, dtype=np.float64)
    if x.ndim == 2:
        x = x[:, None]
    if x.ndim != 3 or not x.size:
        raise ValueError(
            f"X: got shape {np.shape(X)}, need (subjects, columns) or (subjects, steps, columns), not empty"
        )
    if np.isinf(x).any():
        raise ValueError(f"X: got an infinite value (row {int(np.argwhere(np.isinf(x))[0][0])}), need numbers or NaN")
    return x, ~np.isnan(x)


def _labels(y: Labels, subjects: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Times and whether each is that of the event."""
    if isinstance(y, tuple) and len(y) == 2:
        time, event = (np.asarray(part) for part in y)
    elif isinstance(y, np.ndarray) and y.dtype.names:
        flags = [name for name in y.dtype.names if y.dtype[name].kind == "b"]
        numbers = [name for name in y.dtype.names if name not in flags]
        if len(flags) != 1 or len(numbers) != 1:
            raise ValueError(f"y: got fields {', '.join(y.dtype.names)}, need one boolean and one of numbers")
        time, event = y[numbers[0]], y[flags[0]]
    else:
        raise ValueError(f"y: got {type(y).__name__}, need a structured array (event, time) or (durations, events)")
    if time.shape != (subjects,) or event.shape != (subjects,):
        raise ValueError(f"y: got shapes {time.shape} and {event.shape}, need ({subjects},) as X")
    if not np.isin(event, (0, 1)).all():
        raise ValueError("y: got events other than 0 and 1, need booleans")
    time = time.astype(np.float64)
    if (bad := ~(np.isfinite(time) & (time >= 0))).any():
        row = int(bad.argmax())
        raise ValueError(f"y: got time {time[row]} (row {row}), need a finite number, at least 0")
    return time, event.astype(bool)
