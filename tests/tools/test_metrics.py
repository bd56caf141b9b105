"""Figures of decisions: identities, oracles, gold values by hand, calibration."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from tenfold.tools.calls import Call
from tenfold.tools.metrics import Prediction, arguments_match, ece, evaluate_decisions, prediction_of
from tenfold.tools.samples import Candidate, DecisionSample
from tenfold.tools.signatures import parse_signature
from tenfold.tools.trace import Answer, Candidates, Decision, Trace
from tenfold.tools.trace import Call as CallEvent

TOOLS = tuple(Candidate(f"t{i}", "", f"t{i}(a: int, b: str = 'x')") for i in range(6))


def samples(seed: int = 0, count: int = 200) -> list[DecisionSample]:
    draw = random.Random(seed)
    found = []
    for i in range(count):
        branch = draw.choice(["no_search", "call", "no_call"])
        target = draw.randrange(6)
        others = [tool for j, tool in enumerate(TOOLS) if j != target]
        if branch == "no_search":
            found.append(DecisionSample(f"q{i}", "no_search"))
        elif branch == "call":
            found.append(DecisionSample(f"q{i}", "call", (TOOLS[target], *others[:2]), f"t{target}", Call(f"t{target}", {"a": i})))  # fmt: skip
        else:
            found.append(DecisionSample(f"q{i}", "no_call", tuple(others[:3]), f"t{target}"))
    return found


def oracle(sample: DecisionSample) -> Prediction:
    return Prediction(sample.branch != "no_search", sample.target if sample.branch == "call" else None, sample.call)


def test_an_oracle_is_always_right_and_one_that_always_calls_never_refuses() -> None:
    given = samples()
    report = evaluate_decisions(given, [oracle(each) for each in given])
    assert [report[name] for name in ("P_NoSearch", "P_Search", "P_DS", "P_NoCall", "P_Call", "P_DC")] == [1.0] * 6
    assert report["argument_accuracy"] == report["schema_valid"] == 1.0
    always = [Prediction(True, each.target or "t0") for each in given]
    report = evaluate_decisions(given, always, bootstrap=0)
    assert (report["P_NoCall"], report["P_Call"], report["P_NoSearch"], report["P_Search"]) == (0.0, 1.0, 0.0, 1.0)


def test_pooled_figures_are_the_weighted_means() -> None:
    draw = random.Random(1)
    given = samples(2)
    guesses = [Prediction(draw.random() < 0.7, draw.choice(["t0", "t1", None, each.target])) for each in given]
    report = evaluate_decisions(given, guesses, bootstrap=0)
    n = report["n"]
    for pooled, parts in (("P_DC", ("P_NoCall", "P_Call")), ("P_DS", ("P_NoSearch", "P_Search"))):
        mean = sum(n[part] * report[part] for part in parts) / sum(n[part] for part in parts)
        assert abs(report[pooled] - mean) <= 1e-12 and n[pooled] == sum(n[part] for part in parts)
    counted = sum(right for right, _ in report["per_tool"].values()) / n["P_DC"]
    assert abs(counted - report["P_DC"]) <= 1e-12
    assert sum(sum(row.values()) for row in report["confusion"].values()) == len(given)


def test_by_hand() -> None:
    call = DecisionSample("q", "call", TOOLS[:2], "t0", Call("t0", {"a": 1}))
    none = DecisionSample("q", "no_call", TOOLS[:2], "t5")
    free = DecisionSample("q", "no_search")
    given = [call, call, call, none, none, free]
    guesses: list[Any] = [
        {"search": True, "choice": "t0", "call": Call("t0", {"a": 2})},
        {"search": True, "choice": "t1"},
        {"search": False},
        {"search": True},
        {"search": False},
        {"search": True, "choice": "t0"},
    ]
    report = evaluate_decisions(given, guesses)
    assert (report["P_Call"], report["P_NoCall"], report["P_DC"]) == (1 / 3, 1 / 2, 2 / 5)
    assert (report["P_Search"], report["P_NoSearch"], report["P_DS"]) == (3 / 5, 0.0, 3 / 6)
    assert report["confusion"] == {"call": {"call": 1, "other tool": 1, "no_search": 1}, "no_call": {"no_call": 1, "no_search": 1}, "no_search": {"search": 1}}  # fmt: skip
    assert report["argument_accuracy"] == 0.0 and report["schema_valid"] == 1.0
    assert all(low <= report[name] <= high for name, (low, high) in report["ci95"].items())


def test_switches_of_the_released_scorer() -> None:
    sample = DecisionSample("q", "call", (Candidate("searchJobs", "", "searchJobs()"), TOOLS[1]), "searchJobs", Call("searchJobs", {}))  # fmt: skip
    guess = Prediction(True, "search")
    assert evaluate_decisions([sample], [guess])["P_Call"] == 0.0
    assert evaluate_decisions([sample], [guess], name_match="substring")["P_Call"] == 1.0
    cut = Prediction(True, complete=False)
    none = DecisionSample("q", "no_call", TOOLS[:2], "t5")
    ours, official = evaluate_decisions([none], [cut]), evaluate_decisions([none], [cut], strict_official=True)
    assert (ours["P_Search"], ours["P_NoCall"], official["P_Search"]) == (1.0, 0.0, 0.0)


def test_intervals_are_over_tools() -> None:
    given = [DecisionSample(f"q{i}", "no_call", TOOLS[:2], f"t{2 + i % 4}") for i in range(200)]
    guesses = [Prediction(True, None if sample.target in ("t2", "t3") else "t0") for sample in given]
    low, high = evaluate_decisions(given, guesses)["ci95"]["P_NoCall"]
    assert low <= 0.1 and high >= 0.9  # 200 items, but four tools that are all right or all wrong


def test_calibration() -> None:
    assert ece([]) != ece([])
    assert ece([(1.0, True), (1.0, True)]) == 0.0
    assert ece([(1.0, False), (1.0, True)]) == pytest.approx(0.5)
    assert ece([(0.7, True)] * 7 + [(0.7, False)] * 3) == pytest.approx(0.0, abs=1e-12)
    given = samples(3, 50)
    sure = [Prediction(each.branch != "no_search", each.target if each.branch == "call" else None, p_search=1.0 if each.branch != "no_search" else 0.0, p_choice=1.0) for each in given]  # fmt: skip
    report = evaluate_decisions(given, sure, bootstrap=0)
    assert report["ece_search"] == report["ece_call"] == 0.0


def test_arguments_are_compared_as_bfcl_compares_them() -> None:
    schema = parse_signature("f(a: float, b: str, c: list[str] = [], d: Optional[int] = None)").parameters
    right = Call("f", {"a": 1.0, "b": "New York"})
    assert arguments_match(Call("f", {"a": 1, "b": "new-york"}), right, schema)
    assert not arguments_match(Call("f", {"a": 1, "b": "York"}), right, schema)
    assert not arguments_match(Call("f", {"a": 1}), right, schema)


def test_an_agents_episode_as_a_prediction() -> None:
    trace = Trace("q", "m", (Decision("search", "search", ("search", "answer")), Candidates(("t0",), (1.0,)), Decision("call", "t0", ("t0", "none")), CallEvent("c", "t0", {"a": 1}), Answer("x")))  # fmt: skip
    assert prediction_of(trace) == Prediction(True, "t0", Call("t0", {"a": 1}))
    assert prediction_of(Trace("q", "m", ())) == Prediction(False, complete=False)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="need one each"):
        evaluate_decisions(samples(), [])
    report = evaluate_decisions([DecisionSample("q", "no_search")], [Prediction(False)])
    assert math.isnan(report["P_Call"]) and report["P_NoSearch"] == 1.0
