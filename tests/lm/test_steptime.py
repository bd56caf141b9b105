"""Step meter, Chinchilla budget and equal-time steps."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tenfold.core.timing import interleaved, ratio
from tenfold.lm.steptime import StepMeter, chinchilla, equal_time_steps, plan


class FakeClock:
    """A clock that moves only when work says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> Callable[[], None]:
        def step() -> None:
            self.now += seconds

        return step


def test_meter_gives_median_iqr_and_rate_after_the_warm_up() -> None:
    clock = FakeClock()
    durations = iter([9.0, 9.0, 9.0, 1.0, 2.0, 3.0, 4.0, 100.0])  # three slow first steps, then five timed ones

    def step() -> None:
        clock.now += next(durations)

    measured = StepMeter(warmup=3, clock=clock).measure(step, 5, tokens=600)
    assert measured == {"median": 3.0, "iqr": 2.0, "tokens_per_s": 200.0}


def test_meter_without_tokens_has_no_rate() -> None:
    clock = FakeClock()
    assert StepMeter(clock=clock).measure(clock.work(0.5), 2) == {"median": 0.5, "iqr": 0.0, "tokens_per_s": None}


def test_default_warm_up_is_five_steps() -> None:
    calls = []
    StepMeter().measure(lambda: calls.append(1), 3)
    assert len(calls) == 8


def test_interleaved_steps_take_turns_and_drift_cancels() -> None:
    clock, order = FakeClock(), []
    speed = {"now": 1.0}

    def step(name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            order.append(name)
            speed["now"] *= 1.1  # the machine slows down all the time
            clock.now += seconds * speed["now"]

        return run

    steps = {"a": step("a", 1.0), "b": step("b", 1.0)}
    measured = StepMeter(warmup=1, clock=clock).measure_interleaved(steps, 20, tokens={"a": 10, "b": 20})
    assert order == ["a", "b"] * 21
    # One after the other, 20 steps of b would look 1.1^20 = 6.7 times slower.
    assert measured["b"]["median"] / measured["a"]["median"] == pytest.approx(1.1)
    assert measured["a"]["tokens_per_s"] == pytest.approx(10 / measured["a"]["median"])
    assert measured["b"]["tokens_per_s"] == pytest.approx(20 / measured["b"]["median"])


def test_a_sleep_of_20_ms_is_seen_within_a_tenth() -> None:
    inside = []  # what the step itself saw: on a loaded machine a sleep lasts longer, for both alike

    def step() -> None:
        start = time.perf_counter()
        time.sleep(0.02)
        inside.append(time.perf_counter() - start)

    median = StepMeter(warmup=1).measure(step, 9)["median"]
    assert median >= 0.02
    assert median == pytest.approx(statistics.median(inside[1:]), rel=0.1)


def test_twenty_ms_on_an_exact_clock() -> None:
    clock = FakeClock()
    assert StepMeter(clock=clock).measure(clock.work(0.02), 10)["median"] == pytest.approx(0.02, rel=1e-9)


@pytest.mark.slow
def test_identical_models_have_a_ratio_of_one() -> None:
    model = torch.nn.Linear(256, 256)
    x = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))

    def step() -> None:
        model(x).sum().backward()

    # CPU seconds of this thread: other processes on the machine do not count.
    timings = interleaved({"a": step, "b": step}, 101, warmup=5, clock=time.thread_time)
    assert ratio(timings, "a", "b") == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(
    ("options", "message"), [({"warmup": -1}, "warmup: got -1"), ({"n": 0}, "repeats: got 0, need at least 1")]
)
def test_meter_refuses(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StepMeter(warmup=options.get("warmup", 0)).measure(lambda: None, options.get("n", 1))


def test_chinchilla_budget_by_hand() -> None:
    budget = chinchilla(6.4e9, 4_194_304)
    assert (budget.params, budget.tokens, budget.steps) == (6_400_000_000, 128_000_000_000, 30517)  # 30517.58 down
    assert budget.tokens_per_param == 20
    assert budget.seconds(0.5) == 15258.5
    assert chinchilla(1000, 100, tokens_per_param=5).steps == 50


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 10), "params: got 0"),
        ((10, 0), "batch_tokens: got 0"),
        ((10, 10, -1), "tokens_per_param: got -1"),
        ((10, 201), "batch_tokens: got 201, need at most the budget of 200 tokens"),
        ((float("nan"), 10), "params: got nan"),
    ],
)
def test_chinchilla_refuses(arguments: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chinchilla(*arguments)  # type: ignore[arg-type]


def test_equal_time_steps_by_hand() -> None:
    assert equal_time_steps(100.0, 1.0) == 100
    assert equal_time_steps(100.0, 1.2) == 83
    assert equal_time_steps(1.0, 1.0) == 1
    assert equal_time_steps(0.3, 0.1) == 3  # 0.3 / 0.1 is 2.9999999999999996


@given(st.integers(1, 1_000_000), st.floats(1e-6, 1e4))
def test_the_reference_gets_its_own_steps_back(steps: int, step_s: float) -> None:
    assert equal_time_steps(steps * step_s, step_s) == steps


@given(st.floats(1e-3, 1e6), st.floats(1e-3, 1e3))
def test_steps_fill_the_budget_without_exceeding_it(budget_s: float, step_s: float) -> None:
    if budget_s < step_s:
        with pytest.raises(ValueError, match="need at least one step"):
            equal_time_steps(budget_s, step_s)
        return
    steps = equal_time_steps(budget_s, step_s)
    assert steps * step_s <= budget_s * (1 + 1e-9) < (steps + 1) * step_s * (1 + 2e-9)


@pytest.mark.parametrize(
    ("budget_s", "step_s", "message"),
    [
        (0.5, 1.0, "budget_s: got 0.5 s, need at least one step"),
        (0.0, 1.0, "budget_s: got 0.0"),
        (1.0, 0.0, "step_s: got 0.0"),
        (float("inf"), 1.0, "budget_s: got inf"),
        (1.0, float("nan"), "step_s: got nan"),
    ],
)
def test_equal_time_steps_refuses(budget_s: float, step_s: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        equal_time_steps(budget_s, step_s)


def test_the_planner_stands_here_too() -> None:
    assert plan("1.6B", None, "h100", 8).rows()[0]["model"] == "1.6B"
