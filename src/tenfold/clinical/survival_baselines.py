"""What the state-space model is compared with: encoders of the released code and the usual heads."""

# Shape legend: B batch, T steps, D observations, U interventions, G static, Z encoding, E events, K slots

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.nn import functional as F

from tenfold.clinical.event_law import EventLaw
from tenfold.clinical.events import EventSpec
from tenfold.clinical.hazard_heads import CoxHead, DirectHead, ExponentialHead, StateHead
from tenfold.clinical.history import History, read_history
from tenfold.clinical.posterior import lstm
from tenfold.clinical.state_space_config import StateSpaceConfig
from tenfold.clinical.survival_losses import deephit_rank_loss
from tenfold.clinical.survival_model import Batch, SurvivalModel, event_loss, mean_count
from tenfold.clinical.transitions import Dynamics, mlp
from tenfold.nn.linear import Linear, init_generator

Encoder = Literal["mri", "mlp", "lstm_ds"]
BaselineHead = Literal["hazard", "pmf", "state", "exponential", "cox"]


def last_values(history: History) -> Tensor:
    """The latest observed value of each variable (0 where there is none), the last interventions and the static values.

    Returns:
        (B, D + U + G).
    """
    steps = history.x.shape[1]
    t = torch.arange(1, steps + 1, device=history.x.device)
    latest = (history.mask * t[:, None]).amax(1)  # 1 is the first step, 0 none
    x = history.x.gather(1, (latest - 1).clamp(min=0)[:, None]).squeeze(1)
    row = torch.arange(len(x), device=x.device)
    u = history.u[row, (history.length - 1).clamp(min=0)]
    return torch.cat([torch.where(latest > 0, x, 0.0), u, history.static], -1)


class SurvivalBaseline(SurvivalModel):
    """An encoder of the history and a head over it, without a generative model.

    Args:
        n_obs, n_interv, events, n_static: as in `StateSpaceConfig`.
        encoder: "mri" passes the most recent values on; "mlp" puts three layers of `z_dim`, a sigmoid last, behind them;
            "lstm_ds" reads all steps and also foresees the next observations.
        head: "hazard" and "pmf" (DeepHit) are linear; "state" rolls a state out as head "official" of the state-space
            model does; "exponential" and "cox" are constant rates.
        z_dim: width of LSTM, layers and rolled-out state.
        ds_nrl: layers of the LSTM.
        feed_mask: the LSTM reads the mask too.
        lstm_interv_delay: steps that interventions are fed later.
        dropout: share of the perceptron's output dropped in training.
        sys_id_weight: of the mean squared error of the next observations, under "lstm_ds".
        rank_weight: of DeepHit's ranking loss, under "pmf".
        generator: where the initial weights are drawn from.
    Raises:
        ValueError: a setting out of range.
    Source: encoders and sizes from the released code of Xue et al. 2020; "pmf": Lee et al. 2018 (DeepHit), an event at a
        time.
    """

    def __init__(
        self,
        n_obs: int,
        n_interv: int,
        events: Sequence[EventSpec],
        encoder: Encoder = "lstm_ds",
        head: BaselineHead = "hazard",
        *,
        n_static: int = 0,
        z_dim: int = 30,
        ds_nrl: int = 1,
        feed_mask: bool = True,
        lstm_interv_delay: int = 0,
        dropout: float = 0.001,
        sys_id_weight: float = 1.0,
        rank_weight: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        for name, given, choices in (("encoder", encoder, get_args(Encoder)), ("head", head, get_args(BaselineHead))):
            if given not in choices:
                raise ValueError(f"{name}: got {given!r}, need one of {', '.join(choices)}")
        if lstm_interv_delay < 0:
            raise ValueError(f"lstm_interv_delay: got {lstm_interv_delay}, need at least 0")
        config = StateSpaceConfig(
            n_obs=n_obs,
            n_interv=n_interv,
            events=tuple(events),
            z_dim=z_dim,
            head="official",
            n_static=n_static,
            ds_nrl=ds_nrl,
            feed_mask=feed_mask,
        )
        generator = init_generator(generator)
        self.config, self.events = config, config.events
        self.lstm_interv_delay, self.dropout = lstm_interv_delay, dropout
        self.sys_id_weight, self.rank_weight = sys_id_weight, rank_weight
        recent = n_obs + n_interv + n_static
        self.rnn = self.emission = self.perceptron = None
        if encoder == "lstm_ds":
            self.rnn = lstm(recent + n_obs * feed_mask, z_dim, ds_nrl, generator)
            self.emission = Linear(z_dim, n_obs, bias=True, generator=generator)
        elif encoder == "mlp":
            self.perceptron = mlp(recent, z_dim, 3, z_dim, generator)
        width = recent if encoder == "mri" else z_dim
        self.dynamics = Dynamics(config, generator, control=False) if head == "state" else None
        if head in ("hazard", "pmf"):
            self.head: nn.Module = DirectHead(config, generator, width, pmf=head == "pmf")
        else:
            heads = {"state": StateHead, "exponential": ExponentialHead, "cox": CoxHead}
            self.head = heads[head](config, generator, width)

    def laws(self, batch: Batch) -> dict[str, EventLaw]:
        return self._laws(self._encode(self._history(batch))[0])

    def loss(self, batch: Batch, *, mesh: DeviceMesh | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """As `baseline_loss`."""
        history = self._history(batch)
        encoding, outputs = self._encode(history)
        laws = self._laws(encoding)
        loss, metrics = event_loss(laws, batch, self.events, mesh=mesh)
        if self.emission is not None and outputs is not None and self.sys_id_weight:
            missed = self.emission(outputs[:, :-1]) - history.x[:, 1:]
            seen = history.mask[:, 1:]
            metrics["forecast"] = torch.where(seen, missed, 0.0).square().sum() / mean_count(seen.sum(), mesh)
            loss = loss + self.sys_id_weight * metrics["forecast"]
        if isinstance(self.head, DirectHead) and self.head.pmf and self.rank_weight:
            metrics["rank"] = self._rank_loss(laws, batch)
            loss = loss + self.rank_weight * metrics["rank"]
        return loss, {name: value.detach() for name, value in metrics.items()}

    def _laws(self, encoding: Tensor) -> dict[str, EventLaw]:
        laws = self.head(encoding) if self.dynamics is None else self.head(encoding, self.dynamics)
        return {event.name: law for event, law in zip(self.events, laws, strict=True)}

    def _history(self, batch: Batch) -> History:
        return read_history(batch, self.config.n_obs, self.config.n_interv, self.config.n_static)

    def _encode(self, history: History) -> tuple[Tensor, Tensor | None]:
        """The encoding (B, ...) at each patient's last step, and the LSTM's outputs (B, T, Z)."""
        if self.rnn is None:
            recent = last_values(history)
            if self.perceptron is None:
                return recent, None
            return F.dropout(self.perceptron(recent).sigmoid(), self.dropout, self.training), None
        steps = history.x.shape[1]
        late = F.pad(history.u, (0, 0, self.lstm_interv_delay, 0))[:, :steps]
        parts = [torch.where(history.mask, history.x, 0.0), late, history.static[:, None].expand(-1, steps, -1)]
        if self.config.feed_mask:
            parts.append(history.mask.to(history.x))
        outputs = self.rnn(torch.cat(parts, -1))[0]
        row, last = torch.arange(len(outputs), device=outputs.device), history.length - 1
        # A patient without a visit has seen nothing: the LSTM's state before the first step.
        return torch.where(last[:, None] >= 0, outputs[row, last.clamp(min=0)], 0.0), outputs

    def _rank_loss(self, laws: dict[str, EventLaw], batch: Batch) -> Tensor:
        total = batch["x"].new_zeros(())
        for column, event in enumerate(self.events):
            law = laws[event.name]
            # Masses relative to that beyond the horizon, whose logit DeepHit holds at 0.
            logits = law.log_survival[:, :-1] + law.log_hazard - law.log_survival[:, -1:]
            labels = (batch[name][:, column] for name in ("slot", "observed"))
            total = total + event.weight * deephit_rank_loss(logits, *labels, at_risk=batch["at_risk"][:, column])
        return total


def baseline_loss(
    model: SurvivalBaseline, batch: Batch, *, mesh: DeviceMesh | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Σ_e w_e NLL_e, and what else encoder and head are trained by.

    Args:
        model: as it is trained.
        batch: as in `dssm_loss`.
        mesh: over whose processes a batch lies in equal parts; but for the ranking loss, which pairs the patients of
            each part, the mean of their losses is that of the whole batch.
    Returns:
        the loss, and "nll/<event>", "weight" and, where they count, "forecast" and "rank".
    """
    return model.loss(batch, mesh=mesh)
