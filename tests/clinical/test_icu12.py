"""The cohort icu12: gold counts of set a, and no look past the trigger."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tenfold.clinical.events import EventSpec, EventTimeDataset
from tenfold.clinical.icu12 import EVENTS, icu12
from tenfold.clinical.physionet2012 import HOURLY, Physionet2012, read_physionet2012, write_npz
from tenfold.core.errors import UserError


@pytest.fixture(scope="module")
def stays(data_dir: Path) -> Physionet2012:
    return read_physionet2012(data_dir / "03-04-clinical", ["a"])


@pytest.fixture(scope="module")
def cohort(data_dir: Path) -> EventTimeDataset:
    return icu12(data_dir / "03-04-clinical", sets=["a"], events=list(EVENTS))


def test_gold_counts(cohort: EventTimeDataset) -> None:
    names = [event.name for event in cohort.events]
    assert dict(zip(names, cohort.observed.sum(axis=0).tolist(), strict=True)) == {
        "kidney": 487,
        "circulatory": 706,
        "neuro": 378,
        "coagulation": 165,
        "ventilation": 259,
        "death30": 603,
        "hospital_death": 554,
    }
    # Events before hour 12, and the ten stays without any measurement from then on.
    assert dict(zip(names, (~cohort.at_risk).sum(axis=0).tolist(), strict=True)) == {
        "kidney": 152,
        "circulatory": 1105,
        "neuro": 1838,
        "coagulation": 451,
        "ventilation": 2280,
        "death30": 0,
        "hospital_death": 60,
    }
    assert {part: len(rows) for part, rows in cohort.split().items()} == {"train": 2363, "valid": 798, "test": 839}
    assert not (cohort.observed & ~cohort.at_risk).any()
    assert cohort.time_hours[:, :5].max() == 36.0


def test_times_of_a_few_stays(cohort: EventTimeDataset, stays: Physionet2012) -> None:
    days, hours = stays.outcome("Survival"), cohort.time_hours[:, 5]
    died = cohort.observed[:, 5]
    assert (hours[days == 1] == 12.0).all()
    assert (hours[days == 0] == 1.0).all()
    assert (died == ((days >= 0) & (days <= 30))).all()
    assert (hours[~died] == 708.0).all()
    alive = (stays.outcome("In-hospital_death") == 0) & cohort.at_risk[:, 6]
    assert np.array_equal(cohort.time_hours[alive, 6], 24.0 * stays.outcome("Length_of_stay")[alive] - 12)


def test_inputs(cohort: EventTimeDataset, stays: Physionet2012) -> None:
    assert cohort.x.shape == (4000, 12, 36)
    assert cohort.intervention_names == ("MechVent",)
    assert set(np.unique(cohort.u)) == {0.0, 1.0}
    assert "MechVent" not in cohort.observation_names
    assert cohort.static_names[-4:] == ("ICUType1", "ICUType2", "ICUType3", "ICUType4")
    values, mask = stays.series().only(*cohort.observation_names).grid(12, rules=HOURLY)
    train = cohort.split()["train"]
    heart = cohort.observation_names.index("HR")
    seen = values[train, :, heart][mask[train, :, heart]].astype(np.float64)
    clipped = np.clip(seen, *np.percentile(seen, (0.5, 99.5)))
    assert cohort.scaling["observations"].mean[heart] == pytest.approx(clipped.mean())
    scaled = cohort.x[train, :, heart][cohort.mask[train, :, heart]]
    assert scaled.mean() == pytest.approx(0, abs=1e-4)
    assert scaled.std() == pytest.approx(1, abs=1e-4)
    missing_height = stays.static[:, 2] < 0
    assert missing_height.any()
    assert (cohort.static[missing_height, 2] == 0).all()


def test_ventilation_can_be_left_out(data_dir: Path) -> None:
    cohort = icu12(data_dir / "03-04-clinical", sets=["b1"], events=["ventilation"], mech_vent=False)
    assert cohort.u.shape == (1939, 12, 0)
    assert "MechVent" not in cohort.observation_names


def test_nothing_after_the_trigger_is_seen(stays: Physionet2012, cohort: EventTimeDataset, tmp_path: Path) -> None:
    before = np.repeat(np.arange(len(stays)), np.diff(stays.offsets))[stays.minute < 720]
    kept = stays.minute < 720
    counts = np.bincount(before, minlength=len(stays))
    early = Physionet2012(
        stays.record_id,
        stays.static,
        stays.outcomes,
        np.cumsum([0, *counts]).astype(np.int32),
        stays.minute[kept],
        stays.var[kept],
        stays.value[kept],
    )
    write_npz(early, tmp_path / "physionet2012_a.npz")
    cut = icu12(tmp_path)
    for name in ("x", "mask", "u", "static", "length"):
        assert np.array_equal(getattr(cut, name), getattr(cohort, name))


def test_scaling_is_kept_for_new_data(data_dir: Path, cohort: EventTimeDataset) -> None:
    other = icu12(data_dir / "03-04-clinical", sets=["b1"], scaling=cohort.scaling)
    assert other.scaling is cohort.scaling
    assert other.x[other.mask].mean() != pytest.approx(0, abs=1e-5)


def test_events_are_chosen_by_name_or_grid(data_dir: Path) -> None:
    folder = data_dir / "03-04-clinical"
    fine = icu12(folder, sets=["b1"], events=[EventSpec("kidney", 1.0, 36), "death30"])
    assert [(event.name, event.n_slots) for event in fine.events] == [("kidney", 36), ("death30", 30)]
    with pytest.raises(UserError, match=r"event: got 'kidny' \(did you mean kidney\?\); known: kidney, circulatory"):
        icu12(folder, sets=["b1"], events=["kidny"])
