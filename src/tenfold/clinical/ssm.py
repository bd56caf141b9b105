"""The deep state-space model of correlated events, in one import: its data, the model, its losses, metrics and estimator.

Source: Xue et al. 2020, arXiv 2407.19371.
"""

from tenfold.clinical import survival_metrics
from tenfold.clinical.curves import (
    StepFunction,
    event_correlation,
    predicted_time,
    rmst,
    survival_frame,
    window_probability,
)
from tenfold.clinical.events import EventSpec, EventTimeDataset, to_slots
from tenfold.clinical.simulator import HmmIcuSim
from tenfold.clinical.state_space import DeepStateSpace, dssm_loss
from tenfold.clinical.state_space_config import StateSpaceConfig
from tenfold.clinical.survival_baselines import SurvivalBaseline, baseline_loss
from tenfold.clinical.survival_estimator import SurvivalEstimator
from tenfold.clinical.survival_losses import (
    cox_ph_loss,
    deephit_rank_loss,
    exponential_nll,
    nll_discrete_hazard,
    nll_pmf,
    weibull_nll,
)
from tenfold.clinical.survival_metrics import *  # noqa: F403

__all__ = [
    "DeepStateSpace",
    "EventSpec",
    "EventTimeDataset",
    "HmmIcuSim",
    "StateSpaceConfig",
    "StepFunction",
    "SurvivalBaseline",
    "SurvivalEstimator",
    "baseline_loss",
    "cox_ph_loss",
    "deephit_rank_loss",
    "dssm_loss",
    "event_correlation",
    "exponential_nll",
    "nll_discrete_hazard",
    "nll_pmf",
    "predicted_time",
    "rmst",
    "survival_frame",
    "to_slots",
    "weibull_nll",
    "window_probability",
]
__all__ += survival_metrics.__all__
