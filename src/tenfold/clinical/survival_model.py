"""What every model of event times offers, and the likelihood they are all trained by."""

# Shape legend: B batch, E events, K slots

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from tenfold.clinical.event_law import EventLaw
from tenfold.clinical.events import EventSpec
from tenfold.core.mesh import batch_coordinate, sum_over_batch

Batch = Mapping[str, Tensor]


class SurvivalModel(nn.Module):
    """What foresees events: a model with one discrete-time law for each."""

    events: tuple[EventSpec, ...]

    @abstractmethod
    def laws(self, batch: Batch) -> dict[str, EventLaw]:
        """The law of each event, given what a batch shows up to the trigger."""

    def hazards(self, batch: Batch, **options: Any) -> dict[str, Tensor]:
        """P(event in slot k | none before), (B, K) by the event's name, in [1e-20, 0.99999]; options as in `laws`."""
        return {name: law.hazard for name, law in self.laws(batch, **options).items()}

    def survival(self, batch: Batch, **options: Any) -> dict[str, Tensor]:
        """P(no event by the end of slot k), (B, K + 1) by the event's name, 1 first; options as in `laws`."""
        return {name: law.survival for name, law in self.laws(batch, **options).items()}


def event_loss(
    laws: Mapping[str, EventLaw],
    batch: Batch,
    events: Sequence[EventSpec],
    *,
    last_slot: bool = False,
    mesh: DeviceMesh | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Σ_e w_e NLL_e, each a mean over the patients at risk; 0 where nobody is.

    Args:
        laws: of each event, by name.
        batch: slot, observed and at_risk, (B, E) in the order of `events`; tail too where `last_slot` asks for it.
        last_slot: patients beyond the horizon pay for every further slot at the last hazard.
        mesh: over whose processes a batch lies in equal parts; the mean of their losses is that of the whole batch.
    Returns:
        the loss; "nll/<event>" of each event and "weight", the number of patients B.
    Raises:
        ValueError: a column that is missing or does not fit; a slot outside 1..K.
    """
    slot, observed, at_risk, *tail = (
        check_labels(batch, name, len(events)) for name in ("slot", "observed", "at_risk", *["tail"] * last_slot)
    )
    loss = next(iter(laws.values())).log_stay.new_zeros(())
    metrics = {}
    for column, event in enumerate(events):
        risk = at_risk[:, column].bool()
        slots = torch.where(risk, slot[:, column], 1)  # who is not at risk may hold any slot
        if bool(((slots < 1) | (slots > event.n_slots)).any()):
            raise ValueError(
                f"slot: got {int(slots.min())}..{int(slots.max())} for event {event.name!r}, need 1..{event.n_slots}"
            )
        value = laws[event.name].log_likelihood(slots, observed[:, column], tail[0][:, column] if tail else None)
        # `where`, since a patient who is not at risk may bring an infinite value.
        nll = -torch.where(risk, value, 0.0).sum() / mean_count(risk.sum(), mesh)
        metrics[f"nll/{event.name}"] = nll
        loss = loss + event.weight * nll
    return loss, metrics | {"weight": loss.new_tensor(float(len(slot)))}


def mean_count(count: Tensor, mesh: DeviceMesh | None) -> Tensor:
    """A count of this process's part, or its mean over all processes, at least that of one: what sums are divided by."""
    world = batch_coordinate(mesh)[1]
    return sum_over_batch(count.clone(), mesh).clamp(min=1) / world


def check_labels(batch: Batch, name: str, events: int) -> Tensor:
    """The labels of that name, (B, events).

    Raises:
        ValueError: they are missing or have another shape.
    """
    if name not in batch:
        raise ValueError(f"batch: got {', '.join(batch)}, need {name!r} too, (B, {events})")
    if batch[name].ndim != 2 or batch[name].shape != (len(batch["slot"]), events):
        raise ValueError(f"{name}: got shape {tuple(batch[name].shape)}, need ({len(batch['slot'])}, {events})")
    return batch[name]
