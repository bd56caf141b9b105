"""Whether calls are the right ones: BFCL's comparison of syntax trees, over one call or several in any order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tenfold.lm.bfcl import Verdict, check
from tenfold.tools.calls import Call


def ast_match(
    output: Sequence[Mapping[str, Mapping[str, Any]]],
    truth: Sequence[Mapping[str, Mapping[str, Sequence[Any]]]],
    tools: Sequence[Mapping[str, Any]],
) -> Verdict:
    """Match calls with the accepted ones, one to one, in the order of the truth.

    Args:
        output: calls, `[{name: {argument: value}}]`.
        truth: accepted calls, `[{name: {argument: [accepted values]}}]`; "" among the values: it may be left out. An
            empty list: no call is right (BFCL's category irrelevance).
        tools: the offered functions in BFCL's form, `{"name", "parameters"}`.
    Returns:
        a verdict, true in a condition if right, with its reason if not.
    Source: Patil et al. 2025, the Berkeley Function Calling Leaderboard; one call is judged by `lm.bfcl.check`.
    """
    try:
        calls = [Call(*item) for each in output for item in _single(each)]
    except (AttributeError, TypeError, ValueError):
        return Verdict(False, "output: need a list of {name: {argument: value}}")
    if len(calls) != len(truth):
        return Verdict(False, f"calls: got {len(calls)}, need {len(truth)}")
    functions = {tool["name"]: tool for tool in tools}
    left = list(range(len(calls)))
    for accepted in truth:
        ((name, values),) = accepted.items()
        if name not in functions:
            return Verdict(False, f"truth: {name!r} is not among the tools")
        verdicts = {index: check(calls[index], functions[name], values) for index in left}
        found = next((index for index in left if verdicts[index].ok), None)
        if found is None:
            reason = verdicts[left[0]].reason if len(truth) == 1 else f"no call matches {name}"
            return Verdict(False, reason)
        left.remove(found)
    return Verdict(True)


def _single(each: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    pairs = list(each.items())
    if len(pairs) != 1 or not isinstance(pairs[0][0], str) or not isinstance(pairs[0][1], Mapping):
        raise ValueError
    return pairs
