"""Metrics of right-censored survival in one place: every function takes arrays or tensors and answers in floats."""

from tenfold.clinical.survival_auc import DynamicAuc, cumulative_dynamic_auc, roc_auc, window_auc
from tenfold.clinical.survival_calibration import DCalibration, d_calibration
from tenfold.clinical.survival_concordance import (
    NoComparablePairs,
    concordance_index,
    concordance_ipcw,
    concordance_td,
)
from tenfold.clinical.survival_errors import brier_score, event_time_error, integrated_brier_score, nbll
from tenfold.clinical.survival_inputs import survival_at
from tenfold.clinical.survival_nonparametric import (
    Censoring,
    LogRank,
    StepCurve,
    aalen_johansen,
    kaplan_meier,
    logrank,
    nelson_aalen,
)

__all__ = [
    "Censoring",
    "DCalibration",
    "DynamicAuc",
    "LogRank",
    "NoComparablePairs",
    "StepCurve",
    "aalen_johansen",
    "brier_score",
    "concordance_index",
    "concordance_ipcw",
    "concordance_td",
    "cumulative_dynamic_auc",
    "d_calibration",
    "event_time_error",
    "integrated_brier_score",
    "kaplan_meier",
    "logrank",
    "nbll",
    "nelson_aalen",
    "roc_auc",
    "survival_at",
    "window_auc",
]
