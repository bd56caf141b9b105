"""Gradient boosting of discrete-time hazards: what a tabular method makes of the last values of a patient.

Each slot that a patient enters is a row; its label says whether the event came in it. The sum of the rows' log losses is
the negative log likelihood of the discrete-time law, so a classifier of rows is a model of hazards.
"""

# Shape legend: B patients, D observations, U interventions, G static, K slots, F features, n rows

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tenfold.clinical.boosted_trees import Forest
from tenfold.clinical.event_law import EventLaw
from tenfold.clinical.events import EventSpec
from tenfold.clinical.history import History, read_history
from tenfold.clinical.state_space_config import StateSpaceConfig
from tenfold.clinical.survival_baselines import last_values
from tenfold.clinical.survival_model import Batch, SurvivalModel, check_labels

BLOCK = 65_536  # rows in memory at once where they are only read
PATIENCE = 50  # trees without a better validation loss


class BoostedHazards(SurvivalModel):
    """A forest an event over last values, the steps since each was taken, interventions, static values and the slot.

    Args:
        n_obs, n_interv, events, n_static: as in `StateSpaceConfig`.
        forests: of each event; None before `fit`.
    """

    def __init__(
        self,
        n_obs: int,
        n_interv: int,
        events: Sequence[EventSpec],
        *,
        n_static: int = 0,
        forests: Sequence[Forest] | None = None,
    ) -> None:
        super().__init__()
        self.config = StateSpaceConfig(n_obs=n_obs, n_interv=n_interv, events=tuple(events), n_static=n_static)
        self.events = self.config.events
        self.features = 2 * n_obs + n_interv + n_static + 1
        self.forests = nn.ModuleList(forests or ())

    @classmethod
    def from_tensors(
        cls, n_obs: int, n_interv: int, events: Sequence[EventSpec], tensors: Mapping[str, Tensor], *, n_static: int = 0
    ) -> BoostedHazards:
        """The model of a state dict.

        Raises:
            ValueError: tensors that are no forests, or not one for each event.
        """
        model = cls(n_obs, n_interv, events, n_static=n_static)
        nodes: dict[str, dict[str, Tensor]] = {str(index): {} for index in range(len(model.events))}
        for key, tensor in tensors.items():
            prefix, _, rest = key.partition(".")
            index, _, name = rest.partition(".")
            if prefix != "forests" or index not in nodes:
                raise ValueError(f"tensors: got {key!r}, need forests of {len(model.events)} events")
            nodes[index][name] = tensor
        model.forests = nn.ModuleList(Forest(each, model.features) for each in nodes.values())
        return model

    def fit(
        self,
        batch: Batch,
        valid: Batch,
        *,
        trees: int = 500,
        rate: float = 0.05,
        leaves: int = 8,
        rows: int = 50_000,
        seed: int = 0,
    ) -> BoostedHazards:
        """Grow trees for each event while they better the likelihood of other patients.

        Args:
            batch: x, mask, u, length, static, slot, observed, at_risk.
            valid: the same of the patients that say how many trees are kept.
            trees: at most so many an event.
            rate: by which each tree is shrunk.
            leaves: of a tree, at most.
            rows: in memory for an event; where patients enter more slots, slots without an event are drawn by chance and
                the intercept makes up for it. All events are kept, and as many other rows at least.
            seed: of that draw, and of the half of the features that each node may ask for.
        Raises:
            ValueError: an event that nobody has.
        """
        from sklearn.ensemble import HistGradientBoostingClassifier
        from threadpoolctl import threadpool_limits  # comes with scikit-learn

        features, others = self._features(batch), self._features(valid)
        forests = []
        for index, event in enumerate(self.events):
            generator = np.random.default_rng([seed, index])
            patient, slot, label, shift = sample_slots(*_follow(batch, index, self.events), event, rows, generator)
            seen = _follow(valid, index, self.events)
            model = HistGradientBoostingClassifier(
                learning_rate=rate,
                max_leaf_nodes=leaves,
                l2_regularization=1.0,
                max_features=0.5,
                early_stopping=False,
                warm_start=True,
                random_state=int(generator.integers(2**31)),
            )
            x = _rows(features, patient, slot)
            with threadpool_limits(torch.get_num_threads(), user_api="openmp"):
                best = _grow(model, x, label, (others, *seen, shift), trees)
            whole = Forest.of(model, self.features)
            some = x[:: max(1, len(x) // 256)]
            if not np.allclose(whole(torch.from_numpy(some)).numpy(), model.decision_function(some), atol=1e-6):
                raise RuntimeError(
                    "scikit-learn: its trees are not kept as this reads them; take another version of it"
                )
            forests.append(whole.first(best, shift, self.features))
        self.forests = nn.ModuleList(forests)
        return self

    def laws(self, batch: Batch) -> dict[str, EventLaw]:
        features = torch.from_numpy(self._features(batch))
        found = {}
        for event, forest in zip(self.events, self.forests, strict=True):
            slots = torch.arange(1, event.n_slots + 1, dtype=torch.float64)
            parts = [
                forest(torch.cat([part.repeat_interleave(event.n_slots, 0), slots.repeat(len(part))[:, None]], 1))
                for part in features.split(max(1, BLOCK // event.n_slots))
            ]
            found[event.name] = EventLaw.from_logits(torch.cat(parts).view(-1, event.n_slots).to(batch["x"].device))
        return found

    def _features(self, batch: Batch) -> NDArray[np.float64]:
        """(B, F - 1), all but the slot."""
        config = self.config
        return patient_features(read_history(batch, config.n_obs, config.n_interv, config.n_static))


def patient_features(history: History) -> NDArray[np.float64]:
    """Last values and the steps from each to the trigger, NaN where nothing was observed; interventions, static values.

    Returns:
        (B, 2 D + U + G).
    """
    steps, observations = history.x.shape[1:]
    t = torch.arange(1, steps + 1, device=history.x.device)
    latest = (history.mask * t[:, None]).amax(1)  # 1 is the first step, 0 none
    age = torch.where(latest > 0, history.length[:, None] - latest, torch.nan)
    recent = last_values(history)
    values = torch.where(latest > 0, recent[:, :observations], torch.nan)
    return torch.cat([values, age, recent[:, observations:]], 1).double().cpu().numpy()


def sample_slots(
    patient: NDArray[np.int64],
    slot: NDArray[np.int64],
    observed: NDArray[np.bool_],
    event: EventSpec,
    most: int,
    generator: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], float]:
    """Rows of patients and slots: all with the event, and of the others no more than fit.

    Args:
        patient: rows of those at risk [n].
        slot: 1..K, of the event, or the last one survived [n].
        observed: [n].
        event: for the error.
        most: rows.
        generator: of the draw.
    Returns:
        patient, slot and label of each row; and the logarithm of the share of slots without event that were kept: drawn
        so, the odds of a row are 1 / share times too high, and this added to a logit mends it.
    Raises:
        ValueError: nobody has the event.
    """
    events = int(observed.sum())
    if not events:
        raise ValueError(f"observed: got no event {event.name!r} among {len(patient)} patients at risk")
    ends = np.cumsum(slot - observed)  # slots without the event, one patient after the other
    total, room = int(ends[-1]), max(most - events, events)
    drawn = np.arange(total) if total <= room else generator.choice(total, room, replace=False)
    owner = np.searchsorted(ends, drawn, side="right")
    quiet = drawn - np.r_[0, ends][owner] + 1
    labels = np.repeat([0, 1], [len(drawn), events])
    shift = float(np.log(len(drawn) / total)) if total else 0.0
    return np.r_[patient[owner], patient[observed]], np.r_[quiet, slot[observed]], labels, shift


def _follow(batch: Batch, index: int, events: Sequence[EventSpec]) -> tuple[Any, Any, Any]:
    """Rows of the patients at risk of an event, their slots, and whether it came."""
    slot, observed, at_risk = (
        check_labels(batch, name, len(events))[:, index].cpu().numpy() for name in ("slot", "observed", "at_risk")
    )
    patient = np.flatnonzero(at_risk)
    return patient, slot[patient], observed[patient].astype(bool)


def _rows(features: NDArray[np.float64], patient: NDArray[np.int64], slot: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.concatenate([features[patient], slot[:, None].astype(np.float64)], axis=1)


def _grow(model: Any, x: NDArray[np.float64], label: NDArray[np.int64], valid: tuple[Any, ...], trees: int) -> int:
    """Grow trees until `PATIENCE` of them brought nothing; the number after which the validation loss is least."""
    grown = 0
    while True:
        grown = min(grown + PATIENCE, trees)
        best = int(np.argmin(_losses(model.set_params(max_iter=grown).fit(x, label), *valid))) + 1
        if grown == trees or best <= grown - PATIENCE:
            return best


def _losses(model: Any, features: NDArray[np.float64], patient: Any, slot: Any, observed: Any, shift: float) -> Any:
    """Summed log loss over all slots that patients enter, after each tree [R]."""
    total: Any = 0.0
    ends = np.cumsum(slot)
    for start in range(0, int(ends[-1]) if len(ends) else 0, BLOCK):
        place = np.arange(start, min(start + BLOCK, ends[-1]))
        owner = np.searchsorted(ends, place, side="right")
        number = place - np.r_[0, ends][owner] + 1
        sign = np.where(observed[owner] & (number == slot[owner]), -1.0, 1.0)
        staged = model.staged_decision_function(_rows(features, patient[owner], number))
        total = total + np.array([np.logaddexp(0.0, sign * (logit + shift)).sum() for logit in map(np.ravel, staged)])
    return total
