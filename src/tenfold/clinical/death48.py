"""The cohort `death48`: forecast hours 24 to 34 of every variable from the first 24, and predict outcomes of the stay.

PhysioNet Challenge 2012, steps of one hour.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tenfold.clinical.events import rows_of_parts
from tenfold.clinical.forecast_data import ForecastDataset, Reading
from tenfold.clinical.onset import creatinine_rise
from tenfold.clinical.physionet2012 import HOURLY, read_physionet2012
from tenfold.clinical.series import Scaling

HISTORY, HORIZON = 24, 10  # hours
TARGETS = ("hospital_death", "kidney24", "long_stay")
LONG_STAY = 15  # days
LARGEST = 5.0  # standard deviations
FLAGS = tuple(name for name, rule in HOURLY.items() if rule == "any")


def death48(
    data_dir: str | Path | None = None,
    *,
    sets: Sequence[str] | None = None,
    reading: Reading | None = None,
    labelled: bool = True,
) -> ForecastDataset:
    """All 37 variables of each stay; outcomes hospital_death, kidney24 and long_stay.

    kidney24 is a rise of creatinine in hours 24 to 48, among those without one before; long_stay is 15 days or more in
    hospital, among those who leave it alive.

    Args:
        data_dir, sets, labelled: see `read_physionet2012`; without labels no outcome is known.
        reading: kept from training; None fits its scaling to the histories of the training part.
    Raises:
        DataNotFound: the data are not there.
        UserError: a damaged file.
    """
    stays = read_physionet2012(data_dir, sets, labelled=labelled)
    series = stays.series()
    values, mask = series.grid(HISTORY, rules=HOURLY)
    future, future_mask = series.grid(HORIZON, start=HISTORY, rules=HOURLY)
    if reading is None:
        train = rows_of_parts(stays.ids)["train"]
        scaling = Scaling.fit(values[train], mask[train], stays.variables)
        reading = Reading(scaling, LARGEST, FLAGS)
    assert reading.scaling is not None
    x, y = reading.scaling.apply(values, mask), reading.scaling.apply(future, future_mask)
    died = stays.outcome("In-hospital_death") == 1
    days = stays.outcome("Length_of_stay")
    rise = creatinine_rise(series)
    return ForecastDataset(
        x=reading.history(x, mask),
        mask=mask,
        y=reading.bounded(y),
        y_mask=future_mask,
        labels=np.stack([died, np.isfinite(rise) & (rise >= HISTORY), days >= LONG_STAY], axis=1),
        eligible=labelled & np.stack([np.ones_like(died), rise >= HISTORY, ~died & (days >= 0)], axis=1),
        features=stays.variables,
        targets=TARGETS,
        ids=stays.ids,
        reading=reading,
    )
