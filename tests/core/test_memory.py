"""Freed memory goes back to the system."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest
import torch

from tenfold.core import memory


def held() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_gaps_between_tensors_that_live_are_given_back() -> None:
    memory.give_back(pause=0.0)
    kept, gaps = [], []
    for _ in range(3000):  # 100 KB each, below what the library maps by itself
        gaps.append(torch.ones(25_000))
        kept.append(torch.ones(500))
    before = held()
    del gaps
    assert memory.give_back(pause=0.0)
    assert before - held() > 150e6
    assert sum(float(each.sum()) for each in kept) == 3000 * 500


def test_it_is_done_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Library:
        def malloc_trim(self, pad: int) -> int:
            asked.append(pad)
            return 1

    monkeypatch.setattr("ctypes.CDLL", lambda name: Library())
    monkeypatch.setattr(memory, "_last", -1e9)
    assert memory.give_back() and not memory.give_back() and asked == [0]

    def absent(name: None) -> object:
        return object()

    monkeypatch.setattr("ctypes.CDLL", absent)
    assert not memory.give_back(pause=0.0)
