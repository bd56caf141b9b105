"""Data streams whose position can be saved: arrays in a seeded order, exact mixtures, batches, packed rows.

A stream is endless or finite, and iterating goes on where it stood. Its state moves before an item is handed out, so
the state saved after a training step describes the item that comes next.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate
from torchdata.stateful_dataloader import StatefulDataLoader

from tenfold.core.packing import PackedRow, Packer, Segment, collate_rows

__all__ = [
    "ArrayStream",
    "Batcher",
    "Mixture",
    "PackedRow",
    "Packer",
    "Segment",
    "Stream",
    "collate_rows",
    "permutation",
]

Array = Tensor | np.ndarray
Data = Array | Mapping[str, Array] | Sequence[Any]


@runtime_checkable
class Stream(Protocol):
    """What `fit` draws from. A finite stream that has ended stays ended."""

    def __iter__(self) -> Iterator[Any]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


def permutation(size: int, seed: int | Sequence[int], epoch: int) -> np.ndarray:
    """The order of one epoch: a random permutation of 0..size-1, a function of (seed, epoch) alone."""
    seeds = [seed] if isinstance(seed, int) else list(seed)
    return np.random.default_rng([*seeds, epoch]).permutation(size)


class ArrayStream:
    """Batches of a data set with random access, in the order `permutation(seed, epoch)`.

    An epoch that does not divide into batches runs on into the next one: batches are all of one size and every item
    comes once an epoch. The state is (epoch, position in items), the same on every rank.

    Args:
        data: a tensor or array (first axis: items), a mapping of such columns, or anything with `len` and `[index]`.
        batch_size: items of one batch over all ranks together; None hands out single items.
        seed: of the order; several integers make one seed.
        shuffle: False keeps the order of `data`.
        epochs: passes over the data; None is endless. The last batch of a finite stream may be short; items that do
            not suffice for one per rank are then left out.
        rank, world: this process takes the `rank`-th of `world` equal parts of each batch.
        collate: makes a batch of a list of items; columns and arrays are indexed and need none.
        workers: processes that fetch items ahead (not for columns and arrays); the order is the same.
    """

    def __init__(
        self,
        data: Data,
        batch_size: int | None = None,
        *,
        seed: int | Sequence[int] = 0,
        shuffle: bool = True,
        epochs: int | None = None,
        rank: int = 0,
        world: int = 1,
        collate: Callable[[list[Any]], Any] = default_collate,
        workers: int = 0,
    ) -> None:
        self.size = _length(data)
        if batch_size is not None and (batch_size < 1 or batch_size % world):
            raise ValueError(f"batch_size: got {batch_size}, need a positive multiple of {world} (world)")
        if not 0 <= rank < world:
            raise ValueError(f"rank: got {rank}, need 0..{world - 1}")
        if workers and isinstance(data, Tensor | np.ndarray | Mapping):
            raise ValueError(f"workers: got {workers}, need 0 for columns and arrays: they are indexed at once")
        self.data = data
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.epochs = epochs
        self.rank = rank
        self.world = world
        self.collate = collate
        self.workers = workers
        self.epoch = 0
        self.position = 0

    def __iter__(self) -> Iterator[Any]:
        if self.workers:
            yield from self._with_workers()
            return
        for indices, *place in self._plan():
            self.epoch, self.position = place
            yield self._fetch(indices)

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "position": self.position, "size": self.size}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["size"] != self.size:
            raise ValueError(f"data: got {self.size} items, need {state['size']} as when the state was saved")
        self.epoch, self.position = state["epoch"], state["position"]

    def _plan(self) -> Iterator[tuple[np.ndarray, int, int]]:
        """This rank's indices of each batch from here on, with the (epoch, position) that follows the batch."""
        epoch, position = self.epoch, self.position
        order = self._order(epoch)
        while True:
            wanted = self.batch_size or self.world
            parts = []
            while wanted and (self.epochs is None or epoch < self.epochs):
                part = order[position : position + wanted]
                parts.append(part)
                wanted -= len(part)
                position += len(part)
                if position == self.size:
                    epoch, position = epoch + 1, 0
                    order = self._order(epoch)
            indices = np.concatenate(parts) if parts else order[:0]
            if len(indices) < self.world:
                self.epoch, self.position = epoch, position
                return
            low, high = (len(indices) * rank // self.world for rank in (self.rank, self.rank + 1))
            yield indices[low:high], epoch, position

    def _order(self, epoch: int) -> np.ndarray:
        return permutation(self.size, self.seed, epoch) if self.shuffle else np.arange(self.size)

    def _fetch(self, indices: np.ndarray) -> Any:
        picked: np.ndarray | int = int(indices[0]) if self.batch_size is None else indices
        if isinstance(self.data, Mapping):
            return {name: _pick(column, picked) for name, column in self.data.items()}
        if isinstance(self.data, Tensor | np.ndarray):
            return _pick(self.data, picked)
        return self.data[picked] if isinstance(picked, int) else self.collate([self.data[int(i)] for i in indices])

    def _with_workers(self) -> Iterator[Any]:
        places: deque[list[int]] = deque()

        def batches() -> Iterator[list[int]]:
            for indices, *place in self._plan():  # runs ahead of what is handed out
                places.append(place)
                yield indices.tolist()

        loader = StatefulDataLoader(
            cast(Any, self.data),
            batch_sampler=_Iterable(batches()),
            num_workers=self.workers,
            collate_fn=self.collate if self.batch_size is not None else _only,
            generator=torch.Generator().manual_seed(0),  # else the loader draws from the global one
        )
        for batch in loader:
            self.epoch, self.position = places.popleft()
            yield batch


class _Iterable:
    """A generator as the loader's batch sampler: iterated once, without a length."""

    def __init__(self, iterator: Iterator[list[int]]) -> None:
        self.iterator = iterator

    def __iter__(self) -> Iterator[list[int]]:
        return self.iterator


def _only(items: list[Any]) -> Any:
    return items[0]


def _pick(column: Array, indices: np.ndarray | int) -> Tensor:
    if isinstance(column, Tensor):
        return column[torch.from_numpy(indices) if isinstance(indices, np.ndarray) else indices]
    return torch.as_tensor(column[indices])


def _length(data: Data) -> int:
    if isinstance(data, Mapping):
        sizes = {name: len(column) for name, column in data.items()}
        if len(set(sizes.values())) != 1:
            raise ValueError(f"data: got columns of lengths {sizes}, need one length")
        size = next(iter(sizes.values()))
    else:
        size = len(data)
    if size == 0:
        raise ValueError("data: got 0 items, need at least 1")
    return size


class Mixture:
    """Items of several sources in an exact ratio at every step, not in expectation.

    At step t = 1, 2, ... the source with the largest deficit `w_i t - count_i` is drawn from, in exact rational
    arithmetic; ties go to the earlier source. So `count_i - w_i t < 1` always. 45/45/10 starts 0,1,0,1,2,0,1,0,1.
    The mixture ends when a source does.

    Args:
        sources: streams, or data with `len` and `[index]`, which come endlessly in the order of (seed, source, epoch).
        weights: one positive number a source, normalised to sum 1; a float counts as the decimal it is written as.
        seed: of the order of sources that are not streams.
    """

    def __init__(
        self, sources: Sequence[Stream | Sequence[Any]], weights: Sequence[float | Fraction], seed: int
    ) -> None:
        if len(sources) != len(weights) or not sources:
            raise ValueError(f"weights: got {len(weights)} for {len(sources)} sources, need one each, at least one")
        if not all(math.isfinite(weight) and weight > 0 for weight in weights):
            raise ValueError(f"weights: got {list(weights)}, need finite numbers > 0")
        self.sources: list[Stream] = [
            source if isinstance(source, Stream) else ArrayStream(source, seed=(seed, index))
            for index, source in enumerate(sources)
        ]
        exact = [Fraction(str(weight)) for weight in weights]
        total = sum(exact)
        shares = [weight / total for weight in exact]
        # Over the common denominator the deficits are integers: exact, and fast.
        self.denominator = math.lcm(*(share.denominator for share in shares))
        self.numerators = [int(share * self.denominator) for share in shares]
        self.counts = [0] * len(sources)

    def __iter__(self) -> Iterator[Any]:
        iterators = [iter(source) for source in self.sources]
        while True:
            index = self.next_source()
            try:
                item = next(iterators[index])
            except StopIteration:
                return
            self.counts[index] += 1
            yield item

    def next_source(self) -> int:
        """Index of the source that the next item comes from."""
        step = sum(self.counts) + 1
        deficits = [n * step - self.denominator * c for n, c in zip(self.numerators, self.counts, strict=True)]
        return deficits.index(max(deficits))

    def state_dict(self) -> dict[str, Any]:
        return {"counts": list(self.counts), "sources": [source.state_dict() for source in self.sources]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if len(state["counts"]) != len(self.sources):
            raise ValueError(
                f"sources: got {len(self.sources)}, need {len(state['counts'])} as when the state was saved"
            )
        self.counts = list(state["counts"])
        for source, saved in zip(self.sources, state["sources"], strict=True):
            source.load_state_dict(saved)


class Batcher:
    """Batches of consecutive items of a stream.

    Args:
        stream: the items. Every rank runs the whole stream, so that one process and several see the same batches.
        batch_size: items of one batch over all ranks together; a finite stream's last batch may be short.
        collate: makes a batch of a list of items.
        rank, world: this process takes the `rank`-th of `world` equal parts of each batch.
    """

    def __init__(
        self,
        stream: Stream,
        batch_size: int,
        *,
        collate: Callable[[list[Any]], Any] = default_collate,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if batch_size < 1 or batch_size % world:
            raise ValueError(f"batch_size: got {batch_size}, need a positive multiple of {world} (world)")
        if not 0 <= rank < world:
            raise ValueError(f"rank: got {rank}, need 0..{world - 1}")
        self.stream = stream
        self.batch_size = batch_size
        self.collate = collate
        self.rank = rank
        self.world = world

    def __iter__(self) -> Iterator[Any]:
        items: list[Any] = []
        for item in self.stream:
            items.append(item)
            if len(items) == self.batch_size:
                yield self._part(items)
                items = []
        if len(items) >= self.world:
            yield self._part(items)

    def _part(self, items: list[Any]) -> Any:
        low, high = (len(items) * rank // self.world for rank in (self.rank, self.rank + 1))
        return self.collate(items[low:high])

    def state_dict(self) -> dict[str, Any]:
        return {"stream": self.stream.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.stream.load_state_dict(state["stream"])
