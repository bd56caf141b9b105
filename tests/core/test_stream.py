"""Laws of streams: each item once an epoch, exact mixtures, packing that loses nothing, resume at any item."""

from __future__ import annotations

import itertools
import json
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.core import packing
from tenfold.core.packing import PackedRow
from tenfold.core.stream import ArrayStream, Batcher, Mixture, Packer, Segment, Stream, collate_rows, permutation
from tenfold.core.tree import flatten, unflatten


def take(stream: Any, count: int) -> list[Any]:
    return list(itertools.islice(stream, count))


def through_file(state: dict[str, Any]) -> Any:
    """A state as it comes back from a checkpoint: JSON beside tensors."""
    plain, tensors = flatten(state)
    return unflatten(json.loads(json.dumps(plain)), tensors)


def assert_resumes(make, at: int, then: int) -> None:
    """Items after a resume at item `at` are those of a stream that was not stopped."""
    whole = take(make(), at + then)
    first, second = make(), make()
    iterator = iter(first)
    for _ in range(at):
        next(iterator, None)
    second.load_state_dict(through_file(first.state_dict()))
    rest = take(second, then)
    assert [flatten(vars_of(item))[0] for item in rest] == [flatten(vars_of(item))[0] for item in whole[at:]]
    for resumed, straight in zip(rest, whole[at:], strict=True):
        torch.testing.assert_close(flatten(vars_of(resumed))[1], flatten(vars_of(straight))[1], rtol=0, atol=0)


def vars_of(item: Any) -> Any:
    return {"item": vars(item) if isinstance(item, PackedRow) else item}


# ArrayStream


@given(st.integers(1, 13), st.integers(1, 7), st.integers(0, 99))
def test_every_item_comes_once_an_epoch(size: int, batch: int, seed: int) -> None:
    items = torch.cat(take(ArrayStream(torch.arange(size), batch, seed=seed), 3 * size)).tolist()
    for epoch in range(len(items) // size):
        assert items[epoch * size : (epoch + 1) * size] == permutation(size, seed, epoch).tolist()


def test_order_is_a_permutation_of_seed_and_epoch() -> None:
    orders = [permutation(50, seed, epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4


@given(st.integers(1, 9), st.integers(1, 4), st.sampled_from([None, 1, 2, 3]), st.integers(0, 20))
def test_array_stream_resumes(size: int, batch: int, epochs: int | None, at: int) -> None:
    assert_resumes(lambda: ArrayStream({"x": torch.arange(size)}, batch, seed=3, epochs=epochs), at, 5)


def test_ranks_share_each_batch_and_one_state() -> None:
    data = np.arange(10)
    whole = take(ArrayStream(data, 4, seed=1), 7)
    ranks = [ArrayStream(data, 4, seed=1, rank=rank, world=2) for rank in (0, 1)]
    parts = [take(stream, 7) for stream in ranks]
    for batch, first, second in zip(whole, *parts, strict=True):
        assert torch.cat([first, second]).tolist() == batch.tolist()
    assert ranks[0].state_dict() == ranks[1].state_dict()


def test_finite_stream_ends_and_stays_ended() -> None:
    stream = ArrayStream(["a", "b", "c"], 2, shuffle=False, epochs=1, collate=list)
    assert list(stream) == [["a", "b"], ["c"]]
    assert list(stream) == []
    assert list(ArrayStream(["a", "b"], seed=0, shuffle=False, epochs=2)) == ["a", "b", "a", "b"]


@pytest.mark.parametrize("batch", [None, 3])
def test_workers_keep_the_order_and_resume(batch: int | None) -> None:
    data = [{"x": i} for i in range(10)]
    before = torch.get_rng_state()
    plain = take(ArrayStream(data, batch, seed=5, epochs=2), 20)
    forked = ArrayStream(data, batch, seed=5, epochs=2, workers=1)
    iterator = iter(forked)
    got = [next(iterator) for _ in range(4)]
    resumed = ArrayStream(data, batch, seed=5, epochs=2, workers=1)
    resumed.load_state_dict(through_file(forked.state_dict()))
    got += list(resumed)
    assert str(got) == str(plain)
    assert torch.equal(before, torch.get_rng_state())  # library code leaves the global generator alone


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ArrayStream([], 2), "data: got 0 items"),
        (lambda: ArrayStream(torch.arange(4), 3, world=2), "batch_size: got 3, need a positive multiple of 2"),
        (lambda: ArrayStream(torch.arange(4), 2, rank=2, world=2), "rank: got 2, need 0..1"),
        (lambda: ArrayStream(torch.arange(4), 2, workers=1), "workers: got 1, need 0"),
        (lambda: ArrayStream({"x": torch.arange(3), "y": torch.arange(4)}, 1), "columns of lengths"),
        (lambda: ArrayStream([1, 2]).load_state_dict(ArrayStream([1]).state_dict()), "data: got 2 items, need 1"),
        (lambda: Batcher(ArrayStream([1]), 0), "batch_size: got 0"),
        (lambda: Mixture([[1], [2]], [1.0], 0), "weights: got 1 for 2 sources"),
        (lambda: Mixture([[1], [2]], [1.0, 0.0], 0), "weights: got .* finite numbers > 0"),
        (lambda: Packer(ArrayStream([[1]]), 0), "length: got 0"),
        (lambda: Packer(ArrayStream([[1]]), 2, "best_fit"), "mode: got 'best_fit'"),  # type: ignore[arg-type]
        (lambda: Packer(ArrayStream([[1]]), 2, "first_fit", open_rows=0), "open_rows: got 0"),
    ],
)
def test_streams_refuse(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# Mixture


def counts_after(weights: list[Any], steps: int) -> list[list[int]]:
    mixture = Mixture([[index] for index in range(len(weights))], weights, seed=0)
    counts, history = [0] * len(weights), []
    for item in take(mixture, steps):
        counts[item] += 1
        history.append(list(counts))
    return history


def test_mixture_gold_sequence() -> None:
    mixture = Mixture([[0], [1], [2]], [0.45, 0.45, 0.10], seed=0)
    assert take(mixture, 14) == [0, 1, 0, 1, 2, 0, 1, 0, 1, 0, 1, 0, 1, 2]
    assert take(Mixture([[0], [1], [2]], [45, 45, 10], seed=9), 14) == [0, 1, 0, 1, 2, 0, 1, 0, 1, 0, 1, 0, 1, 2]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=4))
def test_mixture_bounds(weights: list[int]) -> None:
    total = sum(weights)
    for step, counts in enumerate(counts_after(weights, 3 * total), start=1):
        for weight, count in zip(weights, counts, strict=True):
            assert -1 <= count - Fraction(weight * step, total) < 1
    assert counts == [3 * weight for weight in weights]


def test_mixture_shuffles_each_source_by_its_own_seed_and_resumes() -> None:
    first = list(range(8))
    items = take(Mixture([first, first], [1, 1], seed=4), 32)
    assert items[0:16:2] == permutation(8, (4, 0), 0).tolist()
    assert items[1:16:2] == permutation(8, (4, 1), 0).tolist()
    assert items[16:32:2] == permutation(8, (4, 0), 1).tolist()
    assert_resumes(lambda: Mixture([first, ArrayStream([9, 10, 11], seed=2)], [0.7, 0.3], seed=4), 13, 9)


def test_mixture_ends_with_a_finite_source() -> None:
    finite = ArrayStream([5], epochs=1)
    assert list(Mixture([[0], finite], [0.75, 0.25], seed=0)) == [0, 0, 5, 0, 0, 0]


def test_batcher_splits_batches_and_resumes() -> None:
    def make(rank: int = 0, world: int = 1) -> Batcher:
        return Batcher(Mixture([list(range(5)), [7]], [2, 1], 0), 4, rank=rank, world=world)

    whole, first, second = (take(make(*place), 3) for place in ((0, 1), (0, 2), (1, 2)))
    assert [torch.cat(pair).tolist() for pair in zip(first, second, strict=True)] == [b.tolist() for b in whole]
    assert_resumes(make, 2, 4)
    assert [b.tolist() for b in Batcher(ArrayStream(torch.arange(3), shuffle=False, epochs=1), 2)] == [[0, 1], [2]]


def test_all_are_streams() -> None:
    inner = ArrayStream([[1]])
    assert all(isinstance(s, Stream) for s in (inner, Mixture([inner], [1], 0), Batcher(inner, 1), Packer(inner, 1)))


# Packer


def pack(documents: list[Any], length: int, mode: Any, **options: Any) -> list[PackedRow]:
    return list(Packer(ArrayStream(documents, shuffle=False, epochs=1), length, mode, **options))


def unpack(row: PackedRow) -> list[list[int]]:
    """The pieces of documents in a row, in order."""
    return [row.tokens[row.segment_ids == n].tolist() for n in range(1, int(row.segment_ids.max()) + 1)]


def test_concat_by_hand() -> None:
    first, second, third = pack([[1, 2, 3], [4, 5], [6]], 3, "concat", separator=9, padding=0)
    assert first.tokens.tolist() == [1, 2, 3, 9]
    assert second.tokens.tolist() == [4, 5, 9, 6]
    assert second.segment_ids.tolist() == [1, 1, 1, 2]
    assert second.positions.tolist() == [0, 1, 2, 0]
    assert third.tokens.tolist() == [9, 0, 0, 0]
    assert third.segment_ids.tolist() == [1, 0, 0, 0]
    plain = pack([[1, 2, 3], [4, 5], [6]], 3, "concat", separator=9, document_mask=False)[1]
    assert plain.segment_ids.tolist() == [1, 1, 1, 1]
    assert plain.positions.tolist() == [0, 1, 2, 3]


def test_first_fit_by_hand() -> None:
    rows = pack([[1, 1, 1], [2, 2, 2], [3], [4, 4], [5]], 3, "first_fit")
    # 3 fills row one and sends it out; 4 does not fit into row two and opens a third; 5 fills row two.
    assert [unpack(row) for row in rows] == [[[1, 1, 1], [3]], [[2, 2, 2], [5]], [[4, 4]]]
    one_open = pack([[1, 1, 1], [2, 2, 2], [3]], 3, "first_fit", open_rows=1)
    assert [unpack(row) for row in one_open] == [[[1, 1, 1]], [[2, 2, 2], [3]]]


DOCUMENTS = st.lists(st.integers(0, 12), min_size=1, max_size=12)


def numbered(sizes: list[int]) -> list[list[int]]:
    """Documents of the given sizes; all tokens differ, so that each can be followed."""
    ends = np.cumsum(sizes).tolist()
    return [list(range(end - size + 1, end + 1)) for size, end in zip(sizes, ends, strict=True)]


@given(DOCUMENTS, st.integers(1, 6), st.integers(1, 3))
def test_packing_loses_and_repeats_no_token(sizes: list[int], length: int, open_rows: int) -> None:
    documents = numbered(sizes)
    for mode in ("concat", "first_fit"):
        rows = pack(documents, length, mode, open_rows=open_rows)
        tokens = [t for row in rows for t in row.tokens[row.segment_ids > 0].tolist()]
        assert sorted(tokens) == list(range(1, sum(sizes) + 1))
        if mode == "concat":
            assert tokens == sorted(tokens)
            assert all((row.segment_ids > 0).all() for row in rows[:-1])
        owner = {token: number for number, document in enumerate(documents) for token in document}
        whole = {tuple(piece) for row in rows for piece in unpack(row)}
        for row in rows:
            for piece in unpack(row):
                assert piece == list(range(piece[0], piece[0] + len(piece)))  # in order, without a gap
                assert len({owner[token] for token in piece}) == 1
            starts = row.positions[row.segment_ids > 0] == 0
            assert int(starts.sum()) == len(unpack(row))
        if mode == "first_fit":
            assert all(tuple(document) in whole for document in documents if 0 < len(document) <= length + 1)


def first_fit(sizes: list[int], capacity: int, open_rows: int) -> list[list[int]]:
    """Sizes of the pieces in each row, by the rule as it is written."""
    rows: list[list[int]] = []
    ready: list[list[int]] = []
    for size in sizes:
        while size:
            piece = min(size, capacity)
            fitting = [row for row in rows if sum(row) + piece <= capacity]
            row = fitting[0] if fitting else []
            if not fitting:
                rows.append(row)
            row.append(piece)
            size -= piece
            if sum(row) == capacity:
                rows = [other for other in rows if other is not row]
                ready.append(row)
            if len(rows) > open_rows:
                ready.append(rows.pop(0))
    return ready + rows


@given(DOCUMENTS, st.integers(1, 6), st.integers(1, 3))
def test_first_fit_agrees_with_its_rule(sizes: list[int], length: int, open_rows: int) -> None:
    rows = pack(numbered(sizes), length, "first_fit", open_rows=open_rows)
    assert [list(map(len, unpack(row))) for row in rows] == first_fit(sizes, length + 1, open_rows)


def test_first_fit_does_not_count_the_tokens_of_open_rows_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []
    size = packing._size
    monkeypatch.setattr(packing, "_size", lambda piece: counted.append(piece) or size(piece))
    pack([[1] * 7] * 100, 9, "first_fit", open_rows=64)
    assert len(counted) == 200  # each document once to find its row, once to fill it


@settings(max_examples=50)
@given(DOCUMENTS, st.integers(1, 6), st.integers(0, 12), st.sampled_from(["concat", "first_fit"]))
def test_packer_resumes(sizes: list[int], length: int, at: int, mode: Any) -> None:
    def make() -> Packer:
        documents = ArrayStream(numbered([*sizes, 3]), seed=1, epochs=3, collate=list)
        return Packer(documents, length, mode, open_rows=2, separator=0)

    assert_resumes(make, at, 6)


def test_segments_that_may_not_be_cut() -> None:
    image = Segment(np.array([7, 7, 7]), kind=1, payload={"image": 5})
    text = Segment(np.array([1, 2, 3]))
    rows = pack([[text, image, text]], 3, "concat", padding=0)
    assert [row.tokens.tolist() for row in rows] == [[1, 2, 3, 0], [7, 7, 7, 1], [2, 3, 0, 0]]
    assert [row.kinds.tolist() for row in rows] == [[0, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]]
    assert [row.payloads for row in rows] == [(), ((0, {"image": 5}),), ()]
    assert_resumes(lambda: Packer(ArrayStream([[text, image, text]]), 3), 2, 3)
    with pytest.raises(ValueError, match="kind 1: got 3 tokens that may not be cut, need at most 2"):
        pack([[image]], 1, "first_fit")


def test_rows_make_batches() -> None:
    stream = Batcher(Packer(ArrayStream([[1, 2, 3]]), 4), 2, collate=collate_rows)
    batch = next(iter(stream))
    assert {name: tuple(tensor.shape) for name, tensor in batch.items()} == dict.fromkeys(
        ("tokens", "segment_ids", "positions"), (2, 5)
    )
