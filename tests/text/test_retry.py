"""Waits by hand: back-off with full jitter, and what servers ask for."""

from __future__ import annotations

import pytest

from tenfold.text.retry import Retry


def retry(share: float, **options: float) -> Retry:
    return Retry(uniform=lambda: share, clock=lambda: 1000.0, **options)  # type: ignore[arg-type]


def test_the_longest_waits_double_up_to_the_cap() -> None:
    assert [retry(1.0).delay(k) for k in range(1, 10)] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert [retry(0.5).delay(k) for k in range(1, 4)] == [0.25, 0.5, 1]
    assert retry(0.0).delay(5) == 0
    assert retry(1.0).delay(5000) == 30


def test_jitter_is_full() -> None:
    waits = [Retry().delay(3) for _ in range(400)]
    assert 0 <= min(waits) < 0.2
    assert 1.8 < max(waits) <= 2


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("1.5", 1.5),
        ("0", 0.5),
        ("-3", 0.5),
        ("nan", 0.5),
        ("soon", 0.5),
        ("", 0.5),
        ("99999", 120.0),
        ("inf", 120.0),
        ("1e400", 120.0),
        ("Thu, 01 Jan 1970 00:17:00 GMT", 20.0),  # the clock says 1000 s
        ("Thursday, 01-Jan-70 00:17:00 GMT", 20.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.5),
        ("Thu, 01 Jan 9999 00:00:00 GMT", 120.0),
        ("Thu, 99 Jan 1970 00:17:00 GMT", 0.5),
        (None, 0.5),
    ],
)
def test_a_server_sets_the_least_wait(header: str | None, seconds: float) -> None:
    assert retry(1.0).delay(1, header) == seconds


def test_a_server_cannot_shorten_the_wait() -> None:
    assert retry(1.0).delay(5, "3") == 8.0


@pytest.mark.parametrize(
    ("options", "said"), [({"tries": 0}, "tries: got 0"), ({"cap": -1.0}, "base, cap, patience: got")]
)
def test_wrong_settings(options: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Retry(**options)  # type: ignore[arg-type]
