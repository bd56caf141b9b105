"""Rows of tokens and their padded batches."""

from __future__ import annotations

import pytest
import torch

from tenfold.align.samples import Sample, pad, rows


def test_a_batch_by_hand() -> None:
    batch = pad([Sample.of([5, 6], [7, 8, 9]), Sample((1, 2, 3), (True, False, True))], padding=4)
    assert batch["ids"].tolist() == [[5, 6, 7, 8, 9], [1, 2, 3, 4, 4]]
    # The first token of a row follows nothing, learned or not.
    assert batch["targets"].tolist() == [[-100, 7, 8, 9, -100], [-100, 3, -100, -100, -100]]
    assert batch["mask"].tolist() == [[True] * 5, [True] * 3 + [False] * 2]
    assert rows(batch, torch.tensor([1]))["ids"].tolist() == [[1, 2, 3, 4, 4]]


def test_targets_are_what_a_loss_counts() -> None:
    for sample in (Sample.of([5, 6], [7, 8]), Sample((1, 2), (True, True)), Sample((3,), (True,))):
        assert sample.targets == int((pad([sample])["targets"] != -100).sum())


def test_cutting_keeps_the_start_or_the_end() -> None:
    sample = Sample.of([1, 2], [3, 4])
    assert sample.cut(3) == Sample((1, 2, 3), (False, False, True))
    assert sample.cut(3, "end") == Sample((2, 3, 4), (False, True, True))
    assert sample.cut(9) == sample.cut(9, "end") == sample


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sample((), ()), "learned: got 0 for 0 ids"),
        (lambda: Sample((1, 2), (True,)), "learned: got 1 for 2 ids"),
        (lambda: Sample.of([1], [2]).cut(0), "length: got 0"),
        (lambda: pad([]), "samples: got none"),
    ],
)
def test_bad_rows(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        make()
