"""Choosing forecast tasks by what they do for an outcome, in one import: the bilevel core, the models, the modes.

Source: Xue et al. 2020, arXiv 2407.19359.
"""

from tenfold.clinical.forecast_data import ForecastDataset, forecast_from_events
from tenfold.clinical.forecast_model import (
    AuxTasks,
    ForecastModel,
    TaskWeights,
    forecast_losses,
    task_scale,
    weighted_forecast_loss,
)
from tenfold.clinical.hypergradient import hypergradient
from tenfold.clinical.planted_forecast import PlantedForecast
from tenfold.clinical.selection_config import SelectConfig
from tenfold.clinical.task_selection import AutoSelect, fit_mode

__all__ = [
    "AutoSelect",
    "AuxTasks",
    "ForecastDataset",
    "ForecastModel",
    "PlantedForecast",
    "SelectConfig",
    "TaskWeights",
    "fit_mode",
    "forecast_from_events",
    "forecast_losses",
    "hypergradient",
    "task_scale",
    "weighted_forecast_loss",
]
