"""The ward whose law is known: filter, curves and joint curves against enumeration and against patients drawn."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tenfold.clinical.events import to_slots
from tenfold.clinical.simulator import EVENTS, HmmIcuSim
from tenfold.clinical.survival_metrics import concordance_index, d_calibration, kaplan_meier

SIM = HmmIcuSim()


def enumerated(
    sim: HmmIcuSim, x: NDArray, mask: NDArray, u: NDArray, hazard: NDArray, do: NDArray | None = None
) -> tuple[NDArray, float, NDArray]:
    """Filter, log-likelihood and survival of one patient as sums over all paths of states and treatments to come."""
    steps, alpha = len(x), np.zeros(4)
    for path in itertools.product(range(4), repeat=steps):
        weight = sim.initial[path[0]]
        for t in range(steps):
            if t:
                treated = int(u[t, 0])
                policy = sim.policy[path[t - 1]]
                weight *= (policy if treated else 1 - policy) * sim.transition[treated, path[t - 1], path[t]]
            for d in np.flatnonzero(mask[t]):
                z = (x[t, d] - sim.mean[path[t], d]) / sim.sd
                weight *= np.exp(-0.5 * z**2) / (sim.sd * np.sqrt(2 * np.pi))
        alpha[path[-1]] += weight
    survival = [1.0]
    for k in range(1, sim.horizon + 1):
        total = 0.0
        for start, *path in itertools.product(range(4), repeat=k + 1):
            for treatments in itertools.product((0, 1), repeat=k):
                weight, before = alpha[start] / alpha.sum(), start
                for step, (treated, state) in enumerate(zip(treatments, path, strict=True)):
                    policy = sim.policy[before] if do is None else do[step]
                    weight *= (policy if treated else 1 - policy) * sim.transition[treated, before, state]
                    weight, before = weight * np.prod(1 - hazard[:, state]), state
                total += weight
        survival.append(total)
    return alpha / alpha.sum(), float(np.log(alpha.sum())), np.array(survival)


def test_the_law_equals_a_sum_over_all_paths() -> None:
    sim = HmmIcuSim(context=4, horizon=3)
    drawn = sim.sample(3, 0)
    do = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1]])
    alpha, log_likelihood = sim.filter(drawn.x, drawn.mask, drawn.u)
    single = sim.true_survival(drawn.x, drawn.mask, drawn.u)
    forced = sim.true_survival(drawn.x, drawn.mask, drawn.u, do=do[..., None])
    joint = sim.joint_survival(drawn.x, drawn.mask, drawn.u, ("kidney", "death"), do=None)
    for n in range(3):
        context = drawn.x[n], drawn.mask[n], drawn.u[n]
        for e, name in enumerate(EVENTS):
            weights, log_weight, survival = enumerated(sim, *context, sim.hazard[[e]])
            np.testing.assert_allclose(single[name][n], survival, rtol=0, atol=1e-12)
            np.testing.assert_allclose(
                forced[name][n], enumerated(sim, *context, sim.hazard[[e]], do[n])[2], atol=1e-12
            )
        np.testing.assert_allclose(joint[n], enumerated(sim, *context, sim.hazard[[0, 2]])[2], rtol=0, atol=1e-12)
        np.testing.assert_allclose(alpha[n], weights, rtol=0, atol=1e-12)
        assert log_likelihood[n] == pytest.approx(log_weight, abs=1e-10)


@pytest.mark.parametrize("patients", [20_000, pytest.param(200_000, marks=pytest.mark.slow)])
def test_patients_die_as_the_law_says(patients: int) -> None:
    """Kaplan–Meier within 4 standard errors of the mean exact curve, in every slot."""
    generator, chunks = np.random.default_rng(7), patients // 20_000
    exact = np.zeros((len(EVENTS), SIM.horizon + 1))
    slot, observed, pair, product = [], [], 0.0, 1.0
    for _ in range(chunks):
        drawn = SIM.sample(20_000, generator)
        context = drawn.x, drawn.mask, drawn.u
        exact += [curve.mean(0) / chunks for curve in SIM.true_survival(*context).values()]
        pair += SIM.joint_survival(*context, ("kidney", "death"))[:, -1].mean() / chunks
        slot.append(drawn.slot)
        observed.append(drawn.observed)
    slots, flags = np.concatenate(slot), np.concatenate(observed)
    for e in range(len(EVENTS)):
        curve = kaplan_meier(slots[:, e], flags[:, e])
        np.testing.assert_array_equal(curve.time, np.arange(SIM.horizon + 1))
        at_risk = (slots[:, e, None] >= np.arange(1, SIM.horizon + 1)).sum(0)
        deaths = np.bincount(slots[flags[:, e], e], minlength=SIM.horizon + 1)[1:]
        greenwood = np.cumsum(deaths / (at_risk * (at_risk - deaths)))
        assert (np.abs(curve.value - exact[e])[1:] < 4 * exact[e][1:] * np.sqrt(greenwood)).all()
    np.testing.assert_allclose(1 - exact[:, -1], [0.168, 0.237, 0.088], atol=0.004)
    product = exact[0, -1] * exact[2, -1]
    assert pair == pytest.approx(0.787, abs=0.004) and product == pytest.approx(0.759, abs=0.005)


def test_treatment_that_is_forced() -> None:
    never, always = np.zeros(SIM.horizon), np.ones(SIM.horizon)
    drawn = SIM.sample(20_000, 3, do=always)
    assert (drawn.u_future == 1).all()
    context = drawn.x, drawn.mask, drawn.u
    treated, untreated = (SIM.true_survival(*context, do=do) for do in (always, never))
    for e, name in enumerate(EVENTS):
        rate = (drawn.first[:, e] <= SIM.horizon).mean()
        exact = 1 - treated[name][:, -1].mean()
        assert abs(rate - exact) < 4 * np.sqrt(exact * (1 - exact) / len(drawn.x))
        assert (treated[name][:, 1:] > untreated[name][:, 1:]).all()


def test_the_oracle_ranks_patients_and_is_calibrated() -> None:
    values = []
    for seed in range(3):
        drawn = SIM.sample(4000, seed)
        curves = SIM.true_survival(drawn.x, drawn.mask, drawn.u)
        for e, name in enumerate(EVENTS):
            values.append(concordance_index(drawn.slot[:, e], drawn.observed[:, e], 1 - curves[name][:, -1]))
            steps = np.arange(SIM.horizon + 1)
            assert d_calibration(drawn.slot[:, e], drawn.observed[:, e], curves[name], steps, slots=True).p_value > 0.5
    np.testing.assert_allclose(np.reshape(values, (3, 3)).mean(0), [0.738, 0.743, 0.747], atol=0.025)


def test_the_law_is_a_law() -> None:
    drawn = SIM.sample(500, 1)
    context = drawn.x, drawn.mask, drawn.u
    alpha, _ = SIM.filter(*context)
    np.testing.assert_allclose(alpha.sum(1), 1, atol=1e-12)
    curves = SIM.true_survival(*context)
    for curve in curves.values():
        assert curve.shape == (500, SIM.horizon + 1) and (curve[:, 0] == 1).all() and (np.diff(curve) < 0).all()
    joint = SIM.joint_survival(*context)
    assert (joint <= np.min(list(curves.values()), axis=0) + 1e-12).all()
    np.testing.assert_array_equal(SIM.joint_survival(*context, ("death",)), curves["death"])
    order = np.random.default_rng(0).permutation(500)
    np.testing.assert_array_equal(SIM.filter(*(part[order] for part in context))[0], alpha[order])


def test_what_is_missing_is_not_looked_at() -> None:
    drawn = SIM.sample(50, 2)
    alpha, log_likelihood = SIM.filter(drawn.x, drawn.mask, drawn.u)
    other = np.where(drawn.mask, drawn.x, np.nan)
    treated = drawn.u.copy()
    treated[:, 0] = 1
    for x, mask, u in ((other, drawn.mask, treated), (torch.tensor(drawn.x), torch.tensor(drawn.mask), drawn.u)):
        again = SIM.filter(x, mask, u)
        np.testing.assert_array_equal(again[0], alpha)
        np.testing.assert_array_equal(again[1], log_likelihood)
    blank = SIM.filter(drawn.x, np.zeros_like(drawn.mask), np.zeros_like(drawn.u))[0]
    assert (blank == blank[0]).all()


def test_a_dataset_has_the_slots_that_were_drawn() -> None:
    drawn, data = SIM.sample(300, 5), SIM.dataset(300, 5)
    assert len(data.events) == 3 and [event.name for event in data.events] == list(EVENTS)
    for e, spec in enumerate(data.events):
        slot, observed, tail = to_slots(data.time_hours[:, e], data.observed[:, e], spec)
        np.testing.assert_array_equal(slot, drawn.slot[:, e])
        np.testing.assert_array_equal(observed, drawn.observed[:, e])
        assert not np.asarray(tail).any()
    np.testing.assert_array_equal(data.x, drawn.x.astype(np.float32))
    censored = ~drawn.observed
    assert (drawn.first[censored] > drawn.slot[censored]).all()
    assert 0.2 < (drawn.slot[censored.all(1)].max(1) < SIM.horizon).mean() < 0.35


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((2, 24, 5))}, r"x: got shape \[2, 24, 5\], need \[N, T, 6\]"),
        ({"mask": np.ones((2, 23, 6))}, r"mask: got shape \[2, 23, 6\], need \[2, 24, 6\]"),
        ({"u": np.zeros((2, 24))}, r"u: got shape \[2, 24\], need \[2, 24, 1\]"),
        ({"u": np.full((2, 24, 1), 0.5)}, "u: got other values, need 0 or 1"),
        ({"do": np.zeros(23)}, r"do: got shape \[23\], need \[24\] or \[2, 24\]"),
        ({"do": np.full(24, 2)}, "do: got other values, need 0 or 1"),
    ],
)
def test_bad_contexts(change: dict, message: str) -> None:
    arguments = {"x": np.zeros((2, 24, 6)), "mask": np.ones((2, 24, 6)), "u": np.zeros((2, 24, 1))} | change
    with pytest.raises(ValueError, match=message):
        SIM.true_survival(**arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": 0}, "context: got 0, need at least 1"),
        ({"horizon": 0}, "horizon: got 0, need at least 1"),
        ({"p_observe": 1.5}, "p_observe: got 1.5, need a probability"),
        ({"p_censor": -1}, "p_censor: got -1, need a probability"),
    ],
)
def test_bad_wards(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HmmIcuSim(**options)


def test_unknown_event() -> None:
    drawn = SIM.sample(2, 0)
    with pytest.raises(ValueError, match="got 'stroke', need some of kidney, circulatory, death"):
        SIM.joint_survival(drawn.x, drawn.mask, drawn.u, ("stroke",))
