"""How right decisions are: to search or not, to call or not, which tool, with which arguments."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tenfold.core.statistics import paired_bootstrap, wilson
from tenfold.tools.ast_match import ast_match
from tenfold.tools.calls import Call
from tenfold.tools.samples import DecisionSample
from tenfold.tools.schemas import to_bfcl
from tenfold.tools.signatures import SignatureError, parse_signature
from tenfold.tools.tool import Tool
from tenfold.tools.trace import Call as CallEvent
from tenfold.tools.trace import Decision, Trace

BINS = 15
RESAMPLES = 2000
_FEWEST = 30  # items of a bootstrap


@dataclass(frozen=True)
class Prediction:
    """What was decided on a sample.

    Args:
        search: whether to search.
        choice: the tool; None: none of the candidates, or no search.
        call: with its arguments, where some were written.
        p_search: probability of searching; None where it is not known.
        p_choice: probability of the choice among the candidates and none.
        complete: False where the generation was cut: the choice then counts as wrong.
        unreadable: arguments of the choice were written that nobody can read: they count as wrong.
    """

    search: bool
    choice: str | None = None
    call: Call | None = None
    p_search: float | None = None
    p_choice: float | None = None
    complete: bool = True
    unreadable: bool = False


def prediction_of(trace: Trace) -> Prediction:
    """The decisions of an agent's episode."""
    decisions = {event.stage: event for event in trace.of(Decision)}
    first, chosen = decisions.get("search"), decisions.get("call")
    calls = trace.of(CallEvent)
    call = Call(calls[0].name, calls[0].arguments) if calls else None
    name = None if chosen is None or chosen.choice == "none" else chosen.choice
    return Prediction(first is not None and first.choice == "search", name, call, complete=first is not None)


def evaluate_decisions(
    samples: Sequence[DecisionSample],
    predictions: Sequence[Prediction | Mapping[str, Any]],
    *,
    name_match: Literal["equal", "substring"] = "equal",
    strict_official: bool = False,
    bootstrap: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Shares of right decisions, with intervals over tools.

    Args:
        samples: with what is right.
        predictions: one each, in order; mappings have the fields of `Prediction`.
        name_match: "equal", or "substring" of the right call as the released scorer has it.
        strict_official: a search counts only where the generation came to its end, as in the released scorer.
        bootstrap: resamples of tools; 0 leaves intervals out.
        seed: of the resampling.
    Returns:
        P_NoSearch, P_Search, P_DS, P_NoCall, P_Call, P_DC (NaN where no sample asks for it); "n" of each; "ci95" of each;
        "confusion" {right: {said: count}}; "argument_accuracy" and "schema_valid" over written calls of the right tool;
        "ece_search", "ece_call" (expected calibration error, 15 bins); "per_tool" {tool: (right, samples)}.
    Source: Gui et al. 2024, section 4.1; a wrong NoSearch counts as wrong in all that follows.
    """
    if not samples or len(samples) != len(predictions):
        raise ValueError(f"predictions: got {len(predictions)} for {len(samples)} samples, need one each, at least 1")
    said = [each if isinstance(each, Prediction) else Prediction(**each) for each in predictions]
    right: dict[str, list[float]] = defaultdict(list)
    tools: dict[str, list[str]] = defaultdict(list)
    per_tool: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    confusion: dict[str, Counter[str]] = defaultdict(Counter)
    for sample, guess in zip(samples, said, strict=True):
        for metric, ok in _verdicts(sample, guess, name_match, strict_official):
            right[metric].append(float(ok))
            tools[metric].append(sample.target or sample.query)
            if metric == "P_DC" and sample.target is not None:
                per_tool[sample.target][0] += ok
                per_tool[sample.target][1] += 1
        confusion[sample.branch][_said(sample, guess)] += 1
    names = ("P_NoSearch", "P_Search", "P_DS", "P_NoCall", "P_Call", "P_DC")
    report: dict[str, Any] = {name: float(np.mean(right[name])) if right[name] else math.nan for name in names}
    report["n"] = {name: len(right[name]) for name in names}
    report["ci95"] = {name: _interval(right[name], tools[name], bootstrap, seed) for name in names if bootstrap}
    report["confusion"] = {branch: dict(counts) for branch, counts in confusion.items()}
    report |= _calls(samples, said, report["n"])
    report["ece_search"] = ece([(each.p_search if each.search else 1 - each.p_search, each.search == (sample.branch != "no_search")) for sample, each in zip(samples, said, strict=True) if each.p_search is not None])  # fmt: skip
    report["ece_call"] = ece([(each.p_choice, _chosen(sample, each, name_match)) for sample, each in zip(samples, said, strict=True) if each.p_choice is not None and each.search and sample.branch != "no_search"])  # fmt: skip
    report["per_tool"] = {name: tuple(counts) for name, counts in sorted(per_tool.items())}
    return report


def _verdicts(sample: DecisionSample, guess: Prediction, name_match: str, strict: bool) -> list[tuple[str, bool]]:
    if sample.branch == "no_search":
        ok = not guess.search
        return [("P_NoSearch", ok), ("P_DS", ok)]
    ok = guess.search and (guess.complete or not strict)
    called = guess.search and guess.complete and _chosen(sample, guess, name_match)
    return [
        ("P_Search", ok),
        ("P_DS", ok),
        ("P_Call" if sample.branch == "call" else "P_NoCall", called),
        ("P_DC", called),
    ]


def _chosen(sample: DecisionSample, guess: Prediction, name_match: str) -> bool:
    if sample.branch == "no_call":
        return guess.choice is None
    if guess.choice is None:
        return False
    if name_match == "substring":
        return guess.choice in f"{sample.target}("
    return guess.choice == sample.target


def _said(sample: DecisionSample, guess: Prediction) -> str:
    if not guess.search:
        return "no_search"
    if not guess.complete:
        return "cut"
    if sample.branch == "no_search":
        return "search"
    if guess.choice is None:
        return "no_call"
    return "call" if sample.branch != "call" or guess.choice == sample.target else "other tool"


def _interval(right: Sequence[float], tools: Sequence[str], resamples: int, seed: int) -> tuple[float, float]:
    """Over tools, whose queries are alike; over items by Wilson where they are few."""
    if not right:
        return (math.nan, math.nan)
    if len(right) < _FEWEST or len(set(tools)) < 2:
        return wilson(int(sum(right)), len(right)).ci95
    return paired_bootstrap(right, np.zeros(len(right)), n=resamples, clusters=tools, seed=seed).ci95


def _calls(samples: Sequence[DecisionSample], said: Sequence[Prediction], n: dict[str, int]) -> dict[str, float]:
    """Arguments of calls of the right tool; their number goes into n."""
    matched, valid = [], []
    for sample, guess in zip(samples, said, strict=True):
        called = guess.call.name if guess.call is not None else guess.choice if guess.unreadable else None
        if sample.call is None or called is None or called != sample.target:
            continue
        if guess.call is None:
            matched.append(False)
            valid.append(False)
            continue
        signature = next(each.signature for each in sample.candidates if each.name == sample.target)
        try:
            parameters = parse_signature(signature, mend=True).parameters
        except SignatureError:
            continue
        valid.append(not Tool(name=guess.call.name, parameters=parameters).issues(guess.call.arguments))
        matched.append(arguments_match(guess.call, sample.call, parameters))
    n["argument_accuracy"] = len(matched)
    return {
        "argument_accuracy": float(np.mean(matched)) if matched else math.nan,
        "schema_valid": float(np.mean(valid)) if valid else math.nan,
    }


def arguments_match(call: Call, right: Call, parameters: Mapping[str, Any]) -> bool:
    """Whether two calls are the same as BFCL compares them."""
    function: dict[str, Any] = {"name": right.name, "parameters": to_bfcl(parameters)}
    for part in function["parameters"].get("properties", {}).values():  # BFCL knows one plain type each
        if not isinstance(part.get("type"), str) or part["type"] == "null":
            part["type"] = "any"
        if part["type"] in ("array", "tuple") and "items" not in part:
            part["items"] = {"type": "any"}
    truth = [{right.name: {name: [value] for name, value in right.arguments.items()}}]
    try:
        return bool(ast_match([{call.name: call.arguments}], truth, [function]))
    except (ValueError, KeyError, TypeError):
        return dict(call.arguments) == dict(right.arguments)


def ece(pairs: Sequence[tuple[float, bool]], bins: int = BINS) -> float:
    """Expected calibration error: the mean distance of confidence and share of right decisions, over bins of equal width.

    Args:
        pairs: (confidence in [0, 1], whether it was right).
    Returns:
        NaN without pairs.
    Source: Guo et al. 2017, Eq. 3.
    """
    if not pairs:
        return math.nan
    confidence = np.array([each for each, _ in pairs])
    right = np.array([float(ok) for _, ok in pairs])
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    gap = np.abs(np.bincount(place, right, bins) - np.bincount(place, confidence, bins))
    return float(gap[count > 0].sum() / len(pairs))
