"""Figures by groups of patients, and how events go together: by hand, by the law, and where they are undefined."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tenfold.clinical.curves import event_correlation
from tenfold.clinical.events import EventSpec, EventTimeDataset
from tenfold.clinical.icu12 import icu12
from tenfold.clinical.physionet2012 import read_physionet2012
from tenfold.clinical.series import Scaling
from tenfold.clinical.simulator import HmmIcuSim
from tenfold.clinical.state_space import DeepStateSpace
from tenfold.clinical.survival_bootstrap import Spread
from tenfold.clinical.survival_metrics import concordance_index, kaplan_meier
from tenfold.recipes.deep_ssm.cohorts import Cohort
from tenfold.recipes.deep_ssm.evaluation import FollowUp, law_of
from tenfold.recipes.deep_ssm.figures import correlation_figure
from tenfold.recipes.deep_ssm.subgroups import AGES, SEXES, UNITS, group_figures, groups_of, interval, subgroup_table
from tenfold.recipes.deep_ssm.together import LAW, OVER, WITHIN, correlation_table, correlations, joint_table

NAMES = ("Age", "Gender", "Height", "Weight", *UNITS)


def ward(static: np.ndarray, known: np.ndarray) -> EventTimeDataset:
    """Patients with static values, an event on four slots, others censored at the end."""
    count = len(static)
    rng = np.random.default_rng(0)
    scaling = Scaling.fit(static, known, NAMES)
    nothing = np.zeros((count, 1, 1))
    observed = rng.random((count, 1)) < 0.5
    return EventTimeDataset(
        nothing, nothing, nothing, np.ones(count), scaling.apply(static, known),
        np.where(observed, rng.integers(0, 48, (count, 1)), 48.0).astype(float), observed, np.ones((count, 1)),
        (EventSpec("kidney", 12.0, 4),), static_names=NAMES, scaling={"static": scaling},
    )  # fmt: skip


def test_groups_by_hand() -> None:
    ages = [18, 49, 50, 64, 65, 79, 80, 90]
    static = np.array([[age, place % 2, 170, 80, *(place % 4 == kind for kind in range(4))] for place, age in enumerate(ages)], dtype=float)  # fmt: skip
    known = np.ones_like(static, dtype=bool)
    found = groups_of(ward(np.tile(static, (30, 1)), np.tile(known, (30, 1))))
    first = {name: np.flatnonzero(rows[:8]).tolist() for name, rows in found.items()}
    assert list(first) == ["all", *SEXES, *AGES, *UNITS.values()]
    assert [first[name] for name in AGES] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert first["female"] == [0, 2, 4, 6] and first["male"] == [1, 3, 5, 7]
    assert first["coronary care"] == [0, 4] and first["surgical ICU"] == [3, 7]
    # What was not recorded puts a patient in no group.
    known = np.tile(known, (30, 1))
    known[1, :2], known[1, 4:] = False, False
    unknown = groups_of(ward(np.tile(static, (30, 1)), known))
    assert [name for name, rows in unknown.items() if rows[1]] == ["all"]


def test_groups_of_stays_are_those_of_the_files(data_dir: Path) -> None:
    folder = data_dir / "03-04-clinical"
    dataset, stays = icu12(folder, events=("death30",)), read_physionet2012(folder)
    found = groups_of(dataset)
    age, gender, _, kind, _ = stays.static.T
    for name, (low, high) in AGES.items():
        np.testing.assert_array_equal(found[name], (age >= max(low, 0)) & (age < high))
    for name, code in SEXES.items():
        np.testing.assert_array_equal(found[name], gender == code)
    for number, name in enumerate(UNITS.values(), start=1):
        np.testing.assert_array_equal(found[name], kind == number)


def test_the_table_has_the_figures_of_each_group() -> None:
    rng = np.random.default_rng(1)
    static = np.stack([rng.integers(20, 95, 300), rng.integers(0, 2, 300), *np.full((2, 300), 70.0), *np.zeros((4, 300))], 1).astype(float)  # fmt: skip
    static[np.arange(300), 4 + rng.integers(0, 4, 300)] = 1
    dataset = ward(static, np.ones_like(static, dtype=bool))
    curves = 1 - np.linspace(0, 1, 5) * rng.random((300, 1))
    table = {line["group"]: line for line in subgroup_table({"kidney": law_of(curves)}, dataset)}
    assert list(table) == list(groups_of(dataset))
    follow, women = FollowUp.of(dataset, dataset.events[0]), static[:, 1] == 0
    line, risk = table["female"], 1 - curves[women, -1]
    assert line["patients"] == women.sum() and line["events"] == follow.observed[women].sum()
    expected = concordance_index(follow.time[women], follow.observed[women], risk)
    assert line["C Harrell"].startswith(f"{expected:.3f} (") and line["predicted"] == f"{risk.mean():.3f}"
    seen = 1 - kaplan_meier(follow.time[women], follow.observed[women]).at(4.0).item()
    assert line["seen"] == f"{seen:.3f}" and line["predicted / seen"].startswith(f"{risk.mean() / seen:.2f} (")
    assert subgroup_table({"kidney": law_of(curves)}, dataset) == list(table.values())  # the same draws every time
    low, high = map(float, line["predicted / seen"].partition(" (")[2].rstrip(")").split(" to "))
    assert low < risk.mean() / seen < high < 1.5 * low


@pytest.mark.parametrize(
    ("observed", "c", "ratio"),
    [
        ([0, 0, 0], "—", "—"),  # no event: neither is defined
        (
            [1, 0, 0],
            "1.000 (1.000 to 1.000)",
            "1.00 (0.40 to ∞)",
        ),  # one draw in 27 is that patient thrice, eight have no event
    ],
)
def test_groups_with_hardly_an_event(observed: list[int], c: str, ratio: str) -> None:
    flags = np.array(observed, dtype=bool)
    line = group_figures(np.array([1.0, 4.5, 4.5]), flags, np.full(3, 0.3) + 0.1 * flags, 4.0, np.random.default_rng(0))
    assert line["C Harrell"] == c and line["predicted / seen"].endswith(ratio)
    nobody = group_figures(np.ones(1), np.ones(1, dtype=bool), np.ones(1), 4.0, np.random.default_rng(0))
    assert nobody == {"patients": 1, "events": 1, "C Harrell": "—", "predicted": "—", "seen": "—", "predicted / seen": "—"}  # fmt: skip


def test_a_cohort_without_such_columns_has_no_table() -> None:
    dataset = HmmIcuSim().dataset(20, 0)
    assert list(groups_of(dataset)) == ["all"]
    truth = HmmIcuSim().true_survival(dataset.x, dataset.mask, dataset.u)
    assert subgroup_table({name: law_of(curve) for name, curve in truth.items()}, dataset) == []


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    simulator = HmmIcuSim()
    dataset = simulator.dataset(200, 3)
    return Cohort("sim", dataset, dataset, dataset, simulator.true_survival(dataset.x, dataset.mask, dataset.u))


def test_correlations_are_those_of_the_curves_with_intervals_around_them(cohort: Cohort) -> None:
    assert cohort.truth is not None
    survival = {name: torch.from_numpy(curve) ** power for (name, curve), power in zip(cohort.truth.items(), (1, 2, 3), strict=True)}  # fmt: skip
    survival["death"] = survival["death"][torch.randperm(200, generator=torch.Generator().manual_seed(0))]
    found = correlations(survival, cohort.truth)
    assert list(found) == [OVER, LAW, WITHIN]
    np.testing.assert_allclose(found[OVER].value, event_correlation(survival).numpy())
    within = event_correlation(survival, within=True).nanmean(0).numpy()
    np.testing.assert_allclose(found[WITHIN].value, within, atol=1e-12)
    for matrix in found.values():
        assert ((matrix.low <= matrix.value + 1e-9) & (matrix.value <= matrix.high + 1e-9)).all()
    low, high = found[OVER].low[0, 2], found[OVER].high[0, 2]
    assert low < 0 < high and high - low == pytest.approx(2 * 1.96 / np.sqrt(200), rel=0.3)  # unrelated: ± 1.96/√n


def test_the_table_of_correlations_says_how_far_the_law_is(cohort: Cohort) -> None:
    value = np.array([[1.0, 0.5], [0.5, 1.0]])
    one, law = Spread(value, value - 0.1, value + 0.1), Spread(value + 0.2, value, value + 0.3)
    assert correlation_table(["a", "b"], {OVER: one, LAW: law}) == [
        {"events": "a, b", OVER: "0.500 (0.400 to 0.600)", LAW: "0.700 (0.500 to 0.800)", "|error|": "0.200"},
        {"events": "mean", OVER: "", LAW: "", "|error|": "0.200"},
    ]
    assert correlation_table(["a", "b"], {OVER: one}) == [{"events": "a, b", OVER: "0.500 (0.400 to 0.600)"}]
    texts = [text.get_text() for text in correlation_figure(["a", "b"], {OVER: one}).axes[0].texts]
    assert texts == ["1.00", "0.50", "0.40 to 0.60", "0.50", "0.40 to 0.60", "1.00"]


def test_joint_survival_of_a_model_beside_the_law(cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    model = DeepStateSpace(6, 1, cohort.events, 4, generator=torch.Generator().manual_seed(0))
    table = {line["none of"]: line for line in joint_table(model, cohort, 5)}
    assert list(table) == ["kidney, circulatory", "kidney, death", "circulatory, death", "kidney, circulatory, death", "mean"]  # fmt: skip
    test, simulator = cohort.test, HmmIcuSim()
    pair = ("kidney", "death")
    law = simulator.joint_survival(test.x, test.mask, test.u, pair)[:, -1]
    assert table["kidney, death"]["by the law"].startswith(f"{law.mean():.3f} (")
    with torch.no_grad():
        laws = model.drawn_laws(test.batch(), 5)
    ends = {name: laws[name].survival[..., -1].double() for name in pair}
    mine, apart = (ends["kidney"] * ends["death"]).mean(0), ends["kidney"].mean(0) * ends["death"].mean(0)
    assert table["kidney, death"]["joint model"].startswith(f"{float(mine.mean()):.3f} (")
    assert float(table["kidney, death"]["mean |error|"]) == pytest.approx(np.abs(mine.numpy() - law).mean(), abs=6e-5)
    assert float(table["kidney, death"]["of the product"]) == pytest.approx(np.abs(apart.numpy() - law).mean(), abs=6e-5)  # fmt: skip
    monkeypatch.setattr("tenfold.recipes.deep_ssm.together.BLOCK", 37)  # some patients at a time
    assert {line["none of"]: line for line in joint_table(model, cohort, 5)} == table


def test_two_events_have_no_line_of_all(cohort: Cohort) -> None:
    two = cohort.events[:2]
    fewer = replace(cohort.test, events=two, **{name: getattr(cohort.test, name)[:, :2] for name in ("time_hours", "observed", "at_risk")})  # fmt: skip
    model = DeepStateSpace(6, 1, two, 4, generator=torch.Generator().manual_seed(0))
    lines = joint_table(model, replace(cohort, train=fewer, test=fewer), 2)
    assert [line["none of"] for line in lines] == ["kidney, circulatory", "mean"]


def test_figures_without_a_value_are_a_dash() -> None:
    assert interval(Spread(np.array(np.nan), np.array(np.nan), np.array(np.nan))) == "—"
    assert interval(Spread(np.array(0.5), np.array(0.25), np.array(np.inf)), 2) == "0.50 (0.25 to ∞)"
