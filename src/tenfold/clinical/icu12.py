"""The cohort `icu12`: at hour 12 of a stay in intensive care, when does each organ fail, and does the patient die?

PhysioNet Challenge 2012; the context is hours 0 to 12 in steps of one hour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tenfold.clinical.cohort import Outcome, chosen_events, event_cohort
from tenfold.clinical.events import EventSpec, EventTimeDataset
from tenfold.clinical.onset import ONSETS, at_trigger
from tenfold.clinical.physionet2012 import HOURLY, Physionet2012, read_physionet2012
from tenfold.clinical.series import Scaling

TRIGGER = 12  # hours after admission, and steps of context
EVENTS: dict[str, EventSpec] = {
    **{name: EventSpec(name, 2.0, 18) for name in ONSETS},
    **{name: EventSpec(name, 24.0, 30) for name in ("death30", "hospital_death")},
}
DEFAULT_EVENTS = (*ONSETS, "death30")
DEFINED_BY = {"ventilation": "MechVent"}  # events that are the first use of an intervention
STATIC_COLUMNS = ("Age", "Gender", "Height", "Weight", *(f"ICUType{kind}" for kind in (1, 2, 3, 4)))


def icu12(
    data_dir: str | Path | None = None,
    *,
    events: Sequence[str | EventSpec] = DEFAULT_EVENTS,
    mech_vent: bool = True,
    sets: Sequence[str] | None = None,
    scaling: Mapping[str, Scaling] | None = None,
    labelled: bool = True,
) -> EventTimeDataset:
    """The cohort: 36 observations, mechanical ventilation as intervention, age, gender, height, weight and ICU type.

    Organ events are counted from hour 12 to the stay's last measurement (36 hours at most), in slots of 2 hours;
    deaths in slots of 24 hours.

    Args:
        data_dir, sets, labelled: see `read_physionet2012`; without labels nobody is known to die.
        events: of kidney, circulatory, neuro, coagulation, ventilation, death30, hospital_death; an `EventSpec`
            brings its own grid.
        mech_vent: False leaves ventilation out of the inputs, as a report on the event `ventilation` must.
        scaling: kept from training; None fits it to the training part of these stays.
    Raises:
        DataNotFound: the data are not there.
        UserError: an unknown event, a damaged file.
    """
    stays = read_physionet2012(data_dir, sets, labelled=labelled)
    specs = chosen_events(events, EVENTS)
    series = stays.series()
    observed = tuple(name for name in stays.variables if name != "MechVent")
    interventions = ("MechVent",) if mech_vent else ()
    return event_cohort(
        stays.ids,
        series.only(*observed, *interventions),
        static_table(stays),
        STATIC_COLUMNS,
        outcomes(stays, specs),
        steps=TRIGGER,
        rules=HOURLY,
        interventions=interventions,
        scaling=scaling,
    )


def free_events(events: Sequence[EventSpec], interventions: Sequence[str]) -> list[EventSpec]:
    """The events that no plan of treatment decides by itself, as `DEFINED_BY` says."""
    return [event for event in events if DEFINED_BY.get(event.name) not in interventions]


def outcomes(stays: Physionet2012, specs: Sequence[EventSpec]) -> dict[EventSpec, Outcome]:
    """Time after hour 12, observed and at risk of each event."""
    series = stays.series()
    last = series.last_hours()
    deaths = {"death30": death_within_30_days, "hospital_death": death_in_hospital}
    return {
        spec: deaths[spec.name](stays)
        if spec.name in deaths
        else at_trigger(ONSETS[spec.name](series), last, float(TRIGGER))
        for spec in specs
    }


def death_within_30_days(stays: Physionet2012) -> Outcome:
    """Death up to day 30 after admission, in or out of hospital; all others are known to live until then.

    Days are whole numbers: a death on day 0 counts an hour after the trigger.
    """
    days = stays.outcome("Survival")
    died = (days >= 0) & (days <= 30)
    return _after_trigger(np.where(died, days, 30)), died, np.ones(len(stays), dtype=bool)


def death_in_hospital(stays: Physionet2012) -> Outcome:
    """Death in hospital, else censored at discharge (which is informative: for tests of censoring weights)."""
    died = stays.outcome("In-hospital_death") == 1
    stay = stays.outcome("Length_of_stay")
    days = np.where(died, stays.outcome("Survival"), stay)
    known = days >= 0
    return np.where(known, _after_trigger(days), 0.0), died & known, known


def static_table(stays: Physionet2012) -> NDArray[np.float64]:
    """Descriptors [N, 8] as `STATIC_COLUMNS`, ICU type as four flags; NaN where not recorded."""
    age, gender, height, kind, weight = stays.static.astype(np.float64).T
    plain = np.stack([age, gender, height, weight], axis=1)
    flags = np.where(kind[:, None] > 0, kind[:, None] == (1, 2, 3, 4), np.nan)
    return np.concatenate([np.where(plain >= 0, plain, np.nan), flags], axis=1)


def _after_trigger(days: NDArray[np.int32]) -> NDArray[np.float64]:
    return np.maximum(24.0 * days - TRIGGER, 1.0)
