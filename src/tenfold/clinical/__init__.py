"""Patients over time: data of intensive care, survival of several correlated events, forecasts and their selection.

Names are loaded when first used: importing the package costs nothing.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "EventSpec": "events",
    "EventTimeDataset": "events",
    "to_slots": "events",
    "Series": "series",
    "Scaling": "series",
    "ForecastDataset": "forecast_data",
    "forecast_from_events": "forecast_data",
    "Physionet2012": "physionet2012",
    "read_physionet2012": "physionet2012",
    "read_mimic3": "mimic3",
    "frequent_items": "mimic3",
    "read_meds": "meds",
    "read_labels": "meds",
    "write_meds": "meds",
    "write_predictions": "meds",
    "read_long_table": "long_table",
    "LongColumns": "long_table",
    "HmmIcuSim": "simulator",
    "nll_discrete_hazard": "survival_losses",
    "nll_pmf": "survival_losses",
    "deephit_rank_loss": "survival_losses",
    "cox_ph_loss": "survival_losses",
    "exponential_nll": "survival_losses",
    "weibull_nll": "survival_losses",
    "DeepStateSpace": "state_space",
    "dssm_loss": "state_space",
    "StateSpaceConfig": "state_space_config",
    "SurvivalBaseline": "survival_baselines",
    "baseline_loss": "survival_baselines",
    "CoxPH": "cox",
    "SurvivalEstimator": "survival_estimator",
    "survival_frame": "curves",
    "predicted_time": "curves",
    "rmst": "curves",
    "window_probability": "curves",
    "event_correlation": "curves",
    "StepFunction": "curves",
    "Censoring": "survival_metrics",
    "DCalibration": "survival_metrics",
    "DynamicAuc": "survival_metrics",
    "LogRank": "survival_metrics",
    "NoComparablePairs": "survival_metrics",
    "StepCurve": "survival_metrics",
    "aalen_johansen": "survival_metrics",
    "brier_score": "survival_metrics",
    "concordance_index": "survival_metrics",
    "concordance_ipcw": "survival_metrics",
    "concordance_td": "survival_metrics",
    "cumulative_dynamic_auc": "survival_metrics",
    "d_calibration": "survival_metrics",
    "event_time_error": "survival_metrics",
    "integrated_brier_score": "survival_metrics",
    "kaplan_meier": "survival_metrics",
    "logrank": "survival_metrics",
    "nbll": "survival_metrics",
    "nelson_aalen": "survival_metrics",
    "roc_auc": "survival_metrics",
    "survival_at": "survival_metrics",
    "window_auc": "survival_metrics",
    "ForecastModel": "forecast_model",
    "TaskWeights": "forecast_model",
    "AuxTasks": "forecast_model",
    "forecast_losses": "forecast_model",
    "weighted_forecast_loss": "forecast_model",
    "task_scale": "forecast_model",
    "PlantedForecast": "planted_forecast",
    "AutoSelect": "task_selection",
    "fit_mode": "task_selection",
    "SelectConfig": "selection_config",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
