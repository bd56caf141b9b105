from __future__ import annotations

import json
import math
from typing import Any

import pytest

from tenfold.core.claims import Claim, Result


def claim(**changes: Any) -> Claim:
    fields: dict[str, Any] = {
        "name": "loss",
        "value": 1.0,
        "baseline": 1.5,
        "better": "lower",
        "ci95": (-0.7, -0.3),
        "seeds": 3,
        "how": "nats",
    }
    return Claim(**{**fields, **changes})


@pytest.mark.parametrize(
    ("better", "interval", "seeds", "holds"),
    [
        ("lower", (-0.7, -0.3), 3, True),
        ("lower", (-0.7, 0.1), 3, False),
        ("lower", (-0.7, 0.0), 3, False),  # touching the baseline is not beyond it
        ("lower", (0.3, 0.7), 3, False),
        ("higher", (0.3, 0.7), 3, True),
        ("higher", (0.0, 0.7), 3, False),
        ("higher", (-0.7, -0.3), 3, False),
        ("higher", (math.nan, math.nan), 1, None),
        ("higher", (0.3, 0.7), 1, None),  # one seed never holds, whatever interval it brings
    ],
)
def test_holds_only_where_the_whole_interval_is_better(
    better: str, interval: tuple[float, float], seeds: int, holds: bool | None
) -> None:
    assert claim(better=better, ci95=interval, seeds=seeds).holds is holds


@pytest.mark.parametrize(
    ("better", "interval", "seeds", "verdict"),
    [
        ("higher", (0.1, 0.5), 3, "holds"),
        ("higher", (-0.1, 0.5), 3, "does not hold"),
        ("higher", (-0.5, 0.0), 3, "does not hold"),
        ("higher", (-0.5, -0.1), 3, "the opposite holds"),
        ("lower", (0.1, 0.5), 3, "the opposite holds"),
        ("lower", (-0.5, -0.1), 1, "one seed"),
    ],
)
def test_the_verdict_says_where_the_opposite_holds(
    better: str, interval: tuple[float, float], seeds: int, verdict: str
) -> None:
    assert claim(better=better, ci95=interval, seeds=seeds).verdict == verdict


def test_margin_is_value_minus_baseline() -> None:
    assert claim(value=1.0, baseline=1.5).margin == -0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"better": "bigger"}, "better: got 'bigger'"),
        ({"seeds": 0}, "seeds: got 0"),
        ({"name": ""}, "name: got an empty string"),
        ({"value": math.nan}, "value: got nan"),
        ({"baseline": math.inf}, "baseline: got inf"),
        ({"ci95": (0.2, 0.1)}, "ci95: got"),
        ({"ci95": (math.nan, math.nan)}, "ci95: got"),
    ],
)
def test_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        claim(**changes)


def test_result_survives_json_and_recomputes_holds() -> None:
    made = Result("r", "tiny", (0, 1, 2), {"torch": "2"}, 1.5, (claim(paper="lower", simulator=True),))
    data = json.loads(json.dumps(made.to_json(), allow_nan=False))
    assert set(data) == {"recipe", "preset", "seed", "versions", "seconds", "claims"}
    assert data["claims"][0]["holds"] is True
    assert Result.from_json(data) == made
    data["claims"][0]["ci95"] = [-0.1, 0.1]  # a typed-in `holds` is never believed
    assert Result.from_json(data).claims[0].holds is False


def test_one_seed_has_no_interval_in_json() -> None:
    data = claim(ci95=(math.nan, math.nan), seeds=1).to_json()
    assert data["ci95"] is None
    assert data["holds"] is None
    assert Claim.from_json(data).holds is None
