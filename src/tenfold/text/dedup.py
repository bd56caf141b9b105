"""Near-duplicate texts by MinHash and locality-sensitive hashing (Broder 1997; Indyk and Motwani 1998).

Own code, since the signatures are a few lines of NumPy and whole buckets of near copies are linked in linear time,
where an index asked text by text, such as the package datasketch has, grows quadratically; the tests compare with it.
"""

# Shape legend: N texts, S shingles of a text, P permutations

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from tenfold.text.words import normalised_words

_CHUNK = 1024  # shingles hashed at once: 1 MB with 128 permutations, which stays in the processor's cache


class MinHashDeduper:
    """Finds texts that share most of their word n-grams with an earlier one.

    Two texts are candidates if their MinHash signatures agree in all rows of some band, which happens with
    probability 1 - (1 - J^rows)^bands for a Jaccard similarity J: 0.9998 at 0.7, 0.23 at 0.3 with the defaults.
    Candidates are linked if their true Jaccard similarity reaches the threshold; linked texts form groups.

    Args:
        shingle: words of an n-gram; a text with fewer words is one n-gram.
        permutations: hash functions of a signature.
        bands, rows: how a signature is cut; bands x rows = permutations.
        threshold: Jaccard similarity of n-gram sets from which two texts are duplicates, in (0, 1].
        seed: of the hash functions.
    Raises:
        ValueError: a number out of its range.
    """

    def __init__(
        self,
        *,
        shingle: int = 5,
        permutations: int = 128,
        bands: int = 32,
        rows: int = 4,
        threshold: float = 0.7,
        seed: int = 0,
    ) -> None:
        if min(shingle, bands, rows) < 1:
            raise ValueError(f"shingle, bands, rows: got {shingle}, {bands}, {rows}, need at least 1")
        if bands * rows != permutations:
            raise ValueError(f"bands x rows: got {bands} x {rows}, need {permutations} (permutations)")
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold: got {threshold}, need a similarity in (0, 1]")
        self.shingle = shingle
        self.bands = bands
        self.threshold = threshold
        generator = np.random.default_rng(seed)
        drawn = generator.integers(0, 1 << 64, (2, permutations), dtype=np.uint64)
        # x -> a x + b mod 2^64 with odd a is a permutation of the 64-bit numbers.
        self._a, self._b = drawn[0] | np.uint64(1), drawn[1]

    def groups(self, texts: Iterable[str]) -> NDArray[np.int64]:
        """For each text (N,) the index of the first text of its group; a text that stands first is its own.

        Keeps 8 bytes a distinct shingle and 4 a permutation of every text in memory, not the texts.
        """
        word_hashes = _WordHashes()
        shingles = [self._shingles(text, word_hashes) for text in texts]
        parents = _Groups(len(shingles))
        first_with: dict[bytes, int] = {}
        distinct = []
        for index, own in enumerate(shingles):  # copies need no comparison, however many there are
            first = first_with.setdefault(hashlib.blake2b(own.tobytes(), digest_size=16).digest(), index)
            if first == index:
                distinct.append(index)
            else:
                parents.join(first, index)
        signatures_NP = np.array([self._signature(shingles[index]) for index in distinct], dtype=np.uint32)
        for bucket in self._buckets(signatures_NP):
            self._link([distinct[place] for place in bucket], shingles, parents)
        return np.array([parents.first(index) for index in range(len(shingles))], dtype=np.int64)

    def unique(self, texts: Iterable[str]) -> list[int]:
        """Indices of the texts that are kept: the first of each group."""
        return [index for index, first in enumerate(self.groups(texts).tolist()) if index == first]

    def _shingles(self, text: str, word_hashes: _WordHashes) -> NDArray[np.uint64]:
        """Sorted distinct 64-bit hashes of a text's n-grams, of its characters where it has no words."""
        words = normalised_words(text) or [text]
        hashes = np.fromiter(map(word_hashes.__getitem__, words), np.uint64, len(words))
        size = min(self.shingle, len(words))
        count = len(words) - size + 1
        rolled = np.zeros(count, dtype=np.uint64)
        for offset in range(size):  # a polynomial in an odd number, mod 2^64
            rolled = rolled * np.uint64(0x9E3779B97F4A7C15) + hashes[offset : offset + count]
        return np.unique(_mix(rolled))

    def _signature(self, shingles: NDArray[np.uint64]) -> NDArray[np.uint32]:
        least = np.full(len(self._a), np.iinfo(np.uint64).max, dtype=np.uint64)
        for start in range(0, len(shingles), _CHUNK):
            images_SP = shingles[start : start + _CHUNK, None] * self._a + self._b
            np.minimum(least, images_SP.min(axis=0), out=least)
        return (least >> np.uint64(32)).astype(np.uint32)

    def _buckets(self, signatures_NP: NDArray[np.uint32]) -> Iterator[list[int]]:
        """Texts whose signatures agree in a band, in order; each band in turn."""
        if len(signatures_NP) == 0:
            return
        for band in np.split(signatures_NP, self.bands, axis=1):
            by_key: dict[bytes, list[int]] = defaultdict(list)
            for place, row in enumerate(np.ascontiguousarray(band)):
                by_key[row.tobytes()].append(place)
            yield from (bucket for bucket in by_key.values() if len(bucket) > 1)

    def _link(self, bucket: list[int], shingles: list[NDArray[np.uint64]], parents: _Groups) -> None:
        """Join the groups of all similar pairs of a bucket; pairs of one group need no look."""
        clusters: list[list[int]] = []
        for index in bucket:
            own = [index]
            apart = []
            for cluster in clusters:
                linked = parents.first(cluster[0]) == parents.first(index) or any(
                    self._similar(shingles[index], shingles[other]) for other in cluster
                )
                if linked:
                    parents.join(cluster[0], index)
                    cluster += own
                    own = cluster
                else:
                    apart.append(cluster)
            clusters = [*apart, own]

    def _similar(self, one: NDArray[np.uint64], other: NDArray[np.uint64]) -> bool:
        small, large = sorted((len(one), len(other)))
        if small / large < self.threshold:  # no overlap could suffice
            return False
        shared = len(np.intersect1d(one, other, assume_unique=True))
        return shared / (small + large - shared) >= self.threshold


class _WordHashes(dict[str, int]):
    """64-bit hashes of words that are the same in every process."""

    def __missing__(self, word: str) -> int:
        digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return self.setdefault(word, int.from_bytes(digest, "little"))


class _Groups:
    """Disjoint sets of 0..size-1, each known by its least member (union-find)."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))

    def first(self, index: int) -> int:
        while (parent := self._parent[index]) != index:
            self._parent[index] = self._parent[parent]
            index = parent
        return index

    def join(self, one: int, other: int) -> None:
        low, high = sorted((self.first(one), self.first(other)))
        self._parent[high] = low


def _mix(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser: spreads every bit over all (Steele, Lea and Flood 2014)."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))
