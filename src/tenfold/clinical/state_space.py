"""A deep state-space model of a patient that foresees several correlated events (Xue et al. 2020, arXiv 2407.19371)."""

# Shape legend: B batch, T steps, D observations, U interventions, Z latent, E events, K slots, N samples

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from tenfold.clinical.elbo import ElboTerms, emission_term, log_normal, sample, state_terms
from tenfold.clinical.event_law import EventLaw
from tenfold.clinical.events import EventSpec
from tenfold.clinical.hazard_heads import CoxHead, ExponentialHead, StateHead
from tenfold.clinical.history import History, read_history
from tenfold.clinical.posterior import Posterior
from tenfold.clinical.state_space_config import Covariance, Head, InferModel, StateSpaceConfig
from tenfold.clinical.survival_model import Batch, SurvivalModel, event_loss
from tenfold.clinical.transitions import Dynamics, mlp
from tenfold.core.mesh import batch_coordinate
from tenfold.nn.linear import init_generator


class DeepStateSpace(SurvivalModel):
    """z_t ~ N(A(z_(t-1)) + B(u_t), Q), x_t ~ N(C(z_t), R), and events with hazards L(s_k) along the state's path.

    Args:
        n_obs, n_interv, events, z_dim, infer_model, cov, head: see `StateSpaceConfig`.
        generator: where the initial weights are drawn from.
        switches: the other fields of `StateSpaceConfig`.
    Raises:
        ValueError: a setting out of range.
    """

    state_noise: Tensor  # log-variances: of Q,
    obs_noise: Tensor  # R
    interv_noise: Tensor  # and V

    def __init__(
        self,
        n_obs: int,
        n_interv: int,
        events: Sequence[EventSpec],
        z_dim: int = 30,
        infer_model: InferModel = "basic",
        cov: Covariance = "diag",
        head: Head = "per_event",
        *,
        generator: torch.Generator | None = None,
        **switches: Any,
    ) -> None:
        super().__init__()
        config = StateSpaceConfig(
            n_obs=n_obs, n_interv=n_interv, events=tuple(events), z_dim=z_dim, infer_model=infer_model, cov=cov, head=head,
            **switches,
        )  # fmt: skip
        generator = init_generator(generator)
        self.config, self.events = config, config.events
        self.inference = Posterior(config, generator)
        self.dynamics = Dynamics(config, generator, control=n_interv > 0)
        self.emission = mlp(z_dim, n_obs, config.obs_nmlp, config.obs_smlp, generator)
        # Its own control network would learn from forecast interventions alone.
        own = not config.reuse_encoding and config.rolls_out
        self.forecast = Dynamics(config, generator, control=config.forecast_interv) if own else None
        heads = {"exponential": ExponentialHead, "cox": CoxHead}
        self.hazard_head = heads.get(head, StateHead)(config, generator)
        self._noise("state_noise", torch.zeros(z_dim))
        self._noise("obs_noise", torch.full((n_obs,), math.log(config.obs_noise_init)))
        if config.forecast_interv:
            self._noise("interv_noise", torch.zeros(n_interv))

    def posterior(
        self, x: Tensor, mask: Tensor, u: Tensor | None, length: Tensor, static: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """q(z_t | x, u) of every step; the prior N(0, I) from a patient's length on.

        Args:
            x: observations, (B, T, D).
            mask: 1 where observed, (B, T, D).
            u: interventions, (B, T, U); None where the model has none.
            length: steps of each patient, (B,), in 0..T; 0 is a patient without a visit.
            static: (B, G), where the model reads them.
        Returns:
            mean (B, T, Z); scale (B, T, Z), or (B, T, Z, Z) with cov "tril".
        Raises:
            ValueError: shapes that do not fit, or a length outside 0..T.
        """
        return self.inference(self._history({"x": x, "mask": mask, "u": u, "length": length, "static": static}))

    def elbo(
        self,
        x: Tensor,
        mask: Tensor,
        u: Tensor | None,
        length: Tensor,
        static: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The evidence lower bound, from one draw of z, reduced as the setting says.

        Args:
            x, mask, u, length, static: as in `posterior`.
            generator: of the draw; None is torch's, which the training loop seeds.
        Returns:
            the bound, and its parts "emis", "kl" and, where interventions are forecast, "interv".
        Source: Xue et al. 2020; the official reduction from its released code.
        """
        history = self._training_history(
            self._history({"x": x, "mask": mask, "u": u, "length": length, "static": static})
        )
        parts = self._elbo_parts(history, self.inference(history), generator)
        return self._bound(parts, 1.0), parts

    def laws(
        self, batch: Batch, n_samples: int = 0, u_future: Tensor | None = None, generator: torch.Generator | None = None
    ) -> dict[str, EventLaw]:
        """The law of each event from the state at the trigger.

        Args:
            batch: x, mask, u, length and static up to the trigger; nothing later is read.
            n_samples: 0 starts from the posterior's mean; N > 0 averages survival over N draws of the state. All
                patients share the draws, so that a curve depends on no other patient of the batch.
            u_future: as in `simulate`.
            generator: of the draws; None takes the same ones every time.
        """
        if n_samples < 0:
            raise ValueError(f"n_samples: got {n_samples}, need at least 0")
        if n_samples:
            return {name: law.average() for name, law in self.drawn_laws(batch, n_samples, u_future, generator).items()}
        history = self._history(batch)
        if u_future is not None:
            self._check_future(u_future, len(history.x))
        return self._laws(self._at_trigger(self._context(history))[0], u_future)

    def drawn_laws(
        self, batch: Batch, n_samples: int, u_future: Tensor | None = None, generator: torch.Generator | None = None
    ) -> dict[str, EventLaw]:
        """The laws from each of N draws of the state at the trigger, (N, B, K); arguments as of `laws`.

        Given a draw, events come independently; that they share it is what binds them (see `curves.joint_survival`).
        """
        if n_samples < 1:
            raise ValueError(f"n_samples: got {n_samples}, need at least 1")
        history = self._history(batch)
        if u_future is not None:
            self._check_future(u_future, len(history.x))
        mu_BZ, scale = self._at_trigger(self._context(history))
        generator = generator or torch.Generator().manual_seed(0)
        noise_N1Z = torch.randn(n_samples, 1, self.config.z_dim, generator=generator).to(mu_BZ)
        start_NBZ = sample(mu_BZ.expand(n_samples, -1, -1), scale.expand(n_samples, *scale.shape), noise_N1Z)
        return self._laws(start_NBZ, u_future)

    def hazards(self, batch: Batch, n_samples: int = 0, **options: Any) -> dict[str, Tensor]:
        return super().hazards(batch, n_samples=n_samples, **options)

    def survival(self, batch: Batch, n_samples: int = 0, **options: Any) -> dict[str, Tensor]:
        return super().survival(batch, n_samples=n_samples, **options)

    def simulate(self, batch: Batch, u_future: Tensor, n_samples: int = 0) -> dict[str, Tensor]:
        """What if: survival under interventions that are forced from the trigger on.

        Args:
            batch: as in `laws`.
            u_future: u of each slot, (B, K, U), or (K, U) for all patients; K is the largest number of slots.
        Returns:
            as `survival`.
        Raises:
            ValueError: a model without interventions; a shape that does not fit.
        """
        return self.survival(batch, n_samples=n_samples, u_future=u_future)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors; an older model in the folder is replaced."""
        from tenfold.clinical.pretrained import write_model

        write_model(self, Path(folder))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> DeepStateSpace:
        """Read a folder that `save_pretrained` wrote.

        Raises:
            UserError: missing or damaged files, settings out of range, weights that do not fit them.
        """
        from tenfold.clinical.pretrained import read_model

        return read_model(Path(folder))

    @classmethod
    def from_config(cls, config: StateSpaceConfig, *, generator: torch.Generator | None = None) -> DeepStateSpace:
        """The model of a config."""
        return cls(**vars(config), generator=generator)

    def _noise(self, name: str, log_variance: Tensor) -> None:
        if self.config.noise_trainable:
            self.register_parameter(name, nn.Parameter(log_variance))
        else:
            self.register_buffer(name, log_variance)

    def _history(self, batch: Mapping[str, Tensor | None]) -> History:
        config = self.config
        given = {name: tensor for name, tensor in batch.items() if tensor is not None}
        return read_history(given, config.n_obs, config.n_interv, config.n_static)

    def _training_history(self, history: History) -> History:
        return history.first(self.config.sys_id_len) if self.config.sys_id_len else history

    def _context(self, history: History) -> History:
        trigger = self.config.context_len_to_trigger
        return history if trigger is None else history.first(trigger)

    def _at_trigger(self, history: History, q: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Mean (B, Z) and scale of the posterior at each patient's last step; the prior's of a patient without any."""
        mu, scale = self.inference(history) if q is None else q
        row, last = torch.arange(len(mu), device=mu.device), (history.length - 1).clamp(min=0)
        return mu[row, last], scale[row, last]

    def _laws(self, start: Tensor, u_future: Tensor | None = None) -> dict[str, EventLaw]:
        """Args: start (..., B, Z). Returns: laws of (..., B, K)."""
        if isinstance(self.hazard_head, StateHead):
            dynamics = self.dynamics if self.forecast is None else self.forecast
            laws = self.hazard_head(start, dynamics, u_future)
        else:
            laws = self.hazard_head(start)
        return {event.name: law for event, law in zip(self.events, laws, strict=True)}

    def _elbo_parts(
        self,
        history: History,
        q: tuple[Tensor, Tensor],
        generator: torch.Generator | None,
        part: tuple[int, int] = (0, 1),
    ) -> dict[str, Tensor]:
        (mu, _), (rank, world) = q, part
        shape = (world, *mu.shape)  # of the whole batch, so that the draws do not depend on how it is split
        noise = torch.randn(shape, generator=generator, dtype=mu.dtype, device=mu.device)[rank]
        terms = self.elbo_terms(history, q, noise).reduce(self.config.elbo_reduction)
        interv = {name: terms[name] for name in ("interv",) if name in terms}
        return {"emis": terms["emis"], "kl": -(terms["trans"] + terms["init"] + terms["ent"]), **interv}

    def elbo_terms(self, history: History, q: tuple[Tensor, Tensor], noise: Tensor) -> ElboTerms:
        """The bound's terms at z = μ + L ε.

        Args:
            history: checked input.
            q: mean and scale of each step, as `posterior` gives them.
            noise: ε, (B, T, Z), standard normal.
        """
        config, (mu, scale) = self.config, q
        z = sample(mu, scale, noise)
        # All steps at once and the last one dropped: slices of the input would be copied by every layer.
        ahead = self.dynamics.mean(z, history.u.roll(-1, 1))[:, :-1]
        trans, init, ent = state_terms(mu, scale, z, noise, ahead, self.state_noise, analytic=config.analytic_kl)
        predicted = self.emission(z)
        if config.em_act == "sigmoid":
            predicted = predicted.sigmoid()
        emis = emission_term(history, predicted, self.obs_noise, count_missing=config.elbo_reduction == "official")
        valid = history.valid
        interv = None
        if config.forecast_interv and config.pretrain_interv:
            missed = (history.u[:, 1:] - self.dynamics.next_interv(z)[:, :-1]).square()
            interv = log_normal(missed, self.interv_noise) * valid[:, 1:]
        return ElboTerms(trans * valid[:, 1:], emis * valid, init * valid[:, 0], ent * valid, interv, valid)

    def _bound(self, parts: Mapping[str, Tensor], kl_weight: float) -> Tensor:
        bound = parts.get("interv", 0.0) - kl_weight * parts["kl"]
        return bound if self.config.state_only_loss else bound + parts["emis"]

    def _check_future(self, u_future: Tensor, batch: int) -> None:
        slots, columns = max(event.n_slots for event in self.events), self.config.n_interv
        if not columns:
            raise ValueError("u_future: got interventions, need a model that has some (n_interv = 0)")
        if self.forecast is not None and self.forecast.control is None:
            raise ValueError("u_future: got interventions, need reuse_encoding or forecast_interv to roll them out")
        if not isinstance(self.hazard_head, StateHead):
            raise ValueError(f"u_future: got interventions, need a head that rolls out ({self.config.head!r} does not)")
        if tuple(u_future.shape) not in ((slots, columns), (batch, slots, columns)):
            need = f"({batch}, {slots}, {columns}) or ({slots}, {columns})"
            raise ValueError(f"u_future: got shape {tuple(u_future.shape)}, need {need}")


def dssm_loss(
    model: DeepStateSpace,
    batch: Batch,
    *,
    kl_weight: float = 1.0,
    generator: torch.Generator | None = None,
    mesh: DeviceMesh | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Σ_e w_e NLL_e - sys_id_weight · ELBO.

    Args:
        model: as it is trained.
        batch: x, mask, u, length, static, and slot, observed, at_risk, tail, each (B, E).
        kl_weight: of the divergence within the bound, for a warm-up.
        generator: of the draw of z; None is torch's, which the training loop seeds. With a mesh, the same on every
            process.
        mesh: over whose processes a batch lies in equal parts; the mean of their losses is that of the whole batch (with
            the official reduction only where histories are of one length).
    Returns:
        the loss, and "nll/<event>", "elbo", "emis", "kl" and "weight", the number of patients.
    Raises:
        FloatingPointError: a loss that is infinite or NaN.
        ValueError: columns that are missing or do not fit.
    """
    history = model._history(batch)
    q = model.inference(history)
    context, training = model._context(history), model._training_history(history)
    # One pass over the history serves both where both see all of it.
    start, _ = model._at_trigger(context, q if context is history else None)
    loss, metrics = event_loss(
        model._laws(start), batch, model.events, last_slot=model.config.last_slot_loss, mesh=mesh
    )
    seen = q if training is history else model.inference(training)
    parts = model._elbo_parts(training, seen, generator, batch_coordinate(mesh))
    loss = loss - model.config.elbo_weight * model._bound(parts, kl_weight)
    metrics |= {"elbo": model._bound(parts, 1.0), **parts}
    metrics = {name: value.detach() for name, value in metrics.items()}
    if not bool(torch.isfinite(loss)):
        figures = ", ".join(f"{name} {float(value):.4g}" for name, value in metrics.items())
        raise FloatingPointError(
            f"loss is {float(loss.detach())}: {figures}; look for extreme values in x, or lower the rate"
        )
    return loss, metrics
