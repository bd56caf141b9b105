"""Settings of the deep state-space model, checked when they are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from tenfold.clinical.events import EventSpec, check_events
from tenfold.core.config import need

InferModel = Literal["basic", "l", "r", "lr", "st"]
Covariance = Literal["diag", "tril"]
Head = Literal["per_event", "official", "exponential", "cox", "auto"]
Combine = Literal["precision", "official"]
Reduction = Literal["sum", "official"]
Emission = Literal["linear", "sigmoid"]


@dataclass(frozen=True)
class StateSpaceSwitches:
    """A deep state-space model but for its data. "official" in a switch means: as in the authors' released code.

    Args:
        z_dim: width Z of the latent state and of the inference LSTM.
        infer_model: what the posterior of step t reads: "basic" and "l" a forward LSTM, "r" a backward one (steps t..T
            alone), "lr" both, each with its own mean and scale, "st" the sum of both.
        cov: scale of the posterior, "diag" or "tril", the lower triangle of a softplus matrix (official).
        head: "per_event" rolls one state out and gives each event a hazard network; "official" maps the state to one
            start state an event and shares the hazard network; "exponential" and "cox" give each event a rate that does
            not change, without a roll-out (official baselines). "auto" is "official" where events have slots of
            different lengths, which one roll-out cannot serve, else "per_event".
        ds_nrl: layers of each LSTM.
        obs_nmlp, obs_smlp: layers and width of the emission network C; 1 layer is a linear map.
        stran_nmlp, stran_smlp: of the state transition A.
        ctran_nmlp, ctran_smlp: of the control transition B.
        hazard_nmlp, hazard_smlp: of the hazard networks L.
        interv_nmlp, interv_smlp: of the intervention forecast I.
        feed_mask: the posterior reads the mask too, and 0 where a value is missing; False reads x as it stands
            (official).
        combine: weights of the two means under "lr": "precision" multiplies the Gaussians, "official" weighs by the
            standard deviation.
        align_backward: turn the backward LSTM's outputs back in time; False leaves them reversed (official).
        use_jitter: add 0.01 to the diagonal of the posterior's scale.
        em_act: output of the emission network; "sigmoid" for data in [0, 1].
        noise_trainable: learn the diagonal log-variances of Q, R and V.
        obs_noise_init: variance that R starts from.
        elbo_reduction: "sum" over the steps of a patient, the mean over patients; "official" adds the means of the terms
            over all their elements, which bounds no likelihood.
        analytic_kl: expectations over z_t, given z_(t-1), in closed form.
        state_only_loss: leave the emission term out of the training loss (official).
        sys_id_len: first steps that the ELBO sees; 0 for all.
        context_len_to_trigger: steps before the trigger; predictions read no later one. None: the whole length.
        sys_id_weight: weight of -ELBO in the loss; None is 1 for the "official" reduction and 0.01 for "sum", whose size
            grows with the steps and would drown the hazards.
        reuse_encoding: the roll-out takes the transitions of the ELBO; False gives it its own.
        forecast_interv: forecast interventions beyond the trigger, and feed them to the roll-out.
        pretrain_interv: add log p(u_(t+1) | z_t) to the ELBO where interventions are forecast.
        forecast_delta: the networks give the growth of the hazard, λ_k = L(s_k) + λ_(k-1).
        last_slot_loss: events and censorings beyond the horizon pay for every further slot at the last hazard.
    Raises:
        ValueError: a field out of range; the message names it.
    Source: Xue et al. 2020, arXiv 2407.19371; z_dim, widths and the official switches from its released code.
    """

    z_dim: int = 30
    infer_model: InferModel = "basic"
    cov: Covariance = "diag"
    head: Head = "per_event"
    ds_nrl: int = 1
    obs_nmlp: int = 2
    obs_smlp: int = 32
    stran_nmlp: int = 2
    stran_smlp: int = 32
    ctran_nmlp: int = 2
    ctran_smlp: int = 32
    hazard_nmlp: int = 2
    hazard_smlp: int = 32
    interv_nmlp: int = 2
    interv_smlp: int = 32
    feed_mask: bool = True
    combine: Combine = "precision"
    align_backward: bool = True
    use_jitter: bool = False
    em_act: Emission = "linear"
    noise_trainable: bool = False
    obs_noise_init: float = 1.0
    elbo_reduction: Reduction = "sum"
    analytic_kl: bool = False
    state_only_loss: bool = False
    sys_id_len: int = 0
    context_len_to_trigger: int | None = None
    sys_id_weight: float | None = None
    reuse_encoding: bool = True
    forecast_interv: bool = False
    pretrain_interv: bool = True
    forecast_delta: bool = False
    last_slot_loss: bool = False

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, need one of {', '.join(choices)}")
        for name in ("z_dim", "ds_nrl", *_NETWORKS):
            need(name, getattr(self, name), 1)
        need("sys_id_len", self.sys_id_len, 0)
        need("context_len_to_trigger", self.context_len_to_trigger, 1)
        need("obs_noise_init", self.obs_noise_init, 0, above=True)
        need("sys_id_weight", self.sys_id_weight, 0)

    @property
    def elbo_weight(self) -> float:
        """`sys_id_weight`, or what stands for it."""
        if self.sys_id_weight is not None:
            return self.sys_id_weight
        return 1.0 if self.elbo_reduction == "official" else 0.01

    @property
    def rolls_out(self) -> bool:
        """Whether hazards follow the state beyond the trigger, so that a plan of treatment can be forced."""
        return self.head not in ("exponential", "cox")

    def sized(self, n_obs: int, n_interv: int, events: Sequence[EventSpec], n_static: int = 0) -> StateSpaceConfig:
        """The model for data of these sizes; interventions are forecast only where there are some."""
        switches = asdict(self)
        switches["forecast_interv"] &= n_interv > 0
        if self.head == "auto":
            switches["head"] = "per_event" if len({event.slot_hours for event in events}) == 1 else "official"
        return StateSpaceConfig(n_obs=n_obs, n_interv=n_interv, events=tuple(events), n_static=n_static, **switches)


@dataclass(frozen=True, kw_only=True)
class StateSpaceConfig(StateSpaceSwitches):
    """One deep state-space model.

    Args:
        n_obs: observations D a step.
        n_interv: interventions U a step; 0 for none.
        events: what is predicted, with the slots of each; one step of the roll-out is one slot.
        n_static: columns of `static` that the posterior reads at every step; 0 leaves them out.
    Raises:
        ValueError: a field out of range; the message names it.
    """

    n_obs: int
    n_interv: int
    events: tuple[EventSpec, ...]
    n_static: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_events(self.events)
        if self.head == "auto":
            raise ValueError("head: got 'auto', which only `StateSpaceSwitches.sized` resolves")
        need("n_obs", self.n_obs, 1)
        for name in ("n_interv", "n_static"):
            need(name, getattr(self, name), 0)
        if self.forecast_interv and not self.n_interv:
            raise ValueError("forecast_interv: got True with n_interv = 0, need interventions to forecast")


_CHOICES: dict[str, tuple[str, ...]] = {
    "infer_model": get_args(InferModel),
    "cov": get_args(Covariance),
    "head": get_args(Head),
    "combine": get_args(Combine),
    "em_act": get_args(Emission),
    "elbo_reduction": get_args(Reduction),
}
_NETWORKS = [f"{net}_{size}" for net in ("obs", "stran", "ctran", "hazard", "interv") for size in ("nmlp", "smlp")]
