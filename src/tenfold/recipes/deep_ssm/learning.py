"""What a step learns from, and which weights are kept: those of least validation loss."""

# Shape legend: N patients, E events

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from tenfold.clinical.events import EventSpec, EventTimeDataset
from tenfold.clinical.hazard_heads import ConstantRate
from tenfold.clinical.state_space import DeepStateSpace, dssm_loss
from tenfold.clinical.survival_baselines import SurvivalBaseline
from tenfold.clinical.survival_model import SurvivalModel, event_loss
from tenfold.core.fit import Loss, TrainState, forward_seed
from tenfold.core.mesh import batch_coordinate
from tenfold.core.optim import Schedule
from tenfold.core.stream import ArrayStream
from tenfold.recipes.deep_ssm.config import Config, Method
from tenfold.recipes.deep_ssm.folder import build_rival

Columns = dict[str, Tensor]
LABELS = ("slot", "observed", "at_risk", "tail")


class Learner(nn.Module):
    """A model in training and its best weights so far: what a checkpoint holds."""

    best_loss: Tensor
    best_step: Tensor

    def __init__(self, model: SurvivalModel) -> None:
        super().__init__()
        self.model = model
        self.best = copy.deepcopy(model).requires_grad_(False)
        self.register_buffer("best_loss", torch.tensor(torch.inf, dtype=torch.float64))
        self.register_buffer("best_step", torch.tensor(0))

    def keep_if_better(self, loss: float, step: int) -> None:
        """Take the weights as the best ones where the validation loss is the least so far."""
        if loss < float(self.best_loss):
            self.best.load_state_dict(self.model.state_dict())
            self.best_loss.fill_(loss)
            self.best_step.fill_(step)


def columns_of(dataset: EventTimeDataset, events: tuple[EventSpec, ...], *, tail: bool) -> Columns:
    """All patients as tensors, with labels of some events.

    Args:
        tail: events beyond the horizon stay events, in the last slot and with a tail.
    """
    batch = dataset.batch(beyond="official" if tail else "censor")
    chosen = [dataset.events.index(event) for event in events]
    return {name: column[:, chosen] if name in LABELS else column for name, column in batch.items()}


def build_model(
    config: Config, method: Method, dataset: EventTimeDataset, events: tuple[EventSpec, ...], seed: int
) -> SurvivalModel:
    """A model at its first step; its weights follow from the seed."""
    sizes = (len(dataset.observation_names), len(dataset.intervention_names), len(dataset.static_names))
    weights = forward_seed(seed, 0, 0, 0)
    if not method.startswith("dssm"):
        rival = build_rival(method, sizes, events, config.rivals, weights)
        if method == "exponential":
            start_at_rates(rival, columns_of(dataset, events, tail=False))
        return rival
    settings = config.network.sized(sizes[0], sizes[1], events, sizes[2])
    return DeepStateSpace.from_config(settings, generator=torch.Generator().manual_seed(weights))


@torch.no_grad()
def start_at_rates(model: SurvivalBaseline, columns: Columns) -> None:
    """Begin constant rates at the best ones without covariates: events over slots survived or entered.

    The released code begins at e^-13 a second, which takes thousands of steps to leave where slots are days.
    """
    head = model.head
    assert isinstance(head, ConstantRate)
    at_risk = columns["at_risk"]
    seen = (columns["observed"] & at_risk).sum(0).clamp(min=0.5)
    rate = (seen / (columns["slot"] * at_risk).sum(0)).log()
    unit = torch.tensor([head.log_unit(event.slot_hours) for event in model.events])
    head.rate.bias.copy_(rate - unit)


def training_loss(config: Config, state: TrainState, steps: int, mesh: DeviceMesh | None) -> Loss:
    """Σ_e NLL_e, and of the state-space model the bound, whose KL term is warmed up.

    Args:
        state: whose step says how warm it is, and with its seed what is drawn.
        steps: in all.
        mesh: over which the rest of a batch lies.
    """
    warm = config.training.kl_warmup * steps

    def loss(learner: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Mapping[str, Tensor]]:
        assert isinstance(learner, Learner)
        model = learner.model
        if isinstance(model, SurvivalBaseline):
            return model.loss(batch, mesh=mesh)
        assert isinstance(model, DeepStateSpace)
        weight = min(1.0, (state.step + 1) / warm) if warm else 1.0
        # The same on every process: each draws for the whole batch and takes its part.
        generator = torch.Generator(batch["x"].device).manual_seed(forward_seed(state.seed, state.step, 0, 0))
        return dssm_loss(model, batch, kl_weight=weight, generator=generator, mesh=mesh)

    return loss


def validation(columns: Columns) -> Callable[[SurvivalModel], dict[str, float]]:
    """The likelihood of the validation part: "valid_nll", over all events by their weights, and of each."""

    @torch.no_grad()
    def measure(model: SurvivalModel) -> dict[str, float]:
        loss, parts = event_loss(model.laws(columns), columns, model.events)
        return {"valid_nll": float(loss)} | {
            f"valid_{name}": float(value) for name, value in parts.items() if name != "weight"
        }

    return measure


def new_state(
    config: Config, learner: Learner, columns: Columns, steps: int, seed: int, mesh: DeviceMesh | None
) -> TrainState:
    """A training at its step 0; methods of one seed see the same patients in the same order."""
    training, (rank, world) = config.training, batch_coordinate(mesh)
    stream = ArrayStream(columns, training.batch, seed=seed, rank=rank, world=world)
    optimizer = torch.optim.AdamW(learner.model.parameters(), training.lr, weight_decay=training.weight_decay)
    schedule = Schedule(0, steps, training.final_fraction)
    return TrainState(learner, optimizer, schedule, stream, seed=seed)
