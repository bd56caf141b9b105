"""Retrievers: which tools of a pool a query is shown, by words, by meaning, or by both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tenfold.tools.tool import Tool
from tenfold.tools.words import Embed, document, embedder, tokens

Found = list[tuple[Tool, float]]


@runtime_checkable
class Retriever(Protocol):
    """Finds tools for a query."""

    def search(self, query: str, k: int) -> Found:
        """At most k tools with their scores, best first; ties go to the earlier tool."""
        ...


class BM25:
    """Okapi's BM25 over `words.document`, with the floor for frequent words that package rank-bm25 has.

    Own code, since no package is both fast and has that floor; the tests compare with rank-bm25.

    Args:
        tools: the pool.
        k1, b: saturation of a word's count, weight of a document's length.
        epsilon: words in more than half of the documents weigh this share of the mean weight.
    Source: Robertson et al. 1994; the floor as in rank-bm25 0.2.2.
    """

    def __init__(self, tools: Sequence[Tool], *, k1: float = 1.5, b: float = 0.75, epsilon: float = 0.25) -> None:
        from scipy.sparse import csc_array

        self.tools = list(tools)
        counts = [Counter(tokens(document(tool))) for tool in self.tools]
        self._words = {
            word: index for index, word in enumerate(dict.fromkeys(word for each in counts for word in each))
        }
        columns = np.array([self._words[word] for each in counts for word in each], dtype=np.int64)
        rows = np.array([row for row, each in enumerate(counts) for _ in each], dtype=np.int64)
        counted = np.array([count for each in counts for count in each.values()], dtype=np.float64)
        lengths = np.array([sum(each.values()) for each in counts], dtype=np.float64)
        frequency = np.bincount(columns, minlength=len(self._words)).astype(np.float64)
        weights = np.log(len(self.tools) - frequency + 0.5) - np.log(frequency + 0.5)
        if weights.size:
            weights = np.where(weights < 0, epsilon * weights.mean(), weights)
        mean = lengths.mean() if lengths.sum() else 1.0
        norm = k1 * (1 - b + b * lengths / mean)
        values = weights[columns] * counted * (k1 + 1) / (counted + norm[rows]) if len(columns) else counted
        self._matrix = csc_array((values, (rows, columns)), shape=(len(self.tools), max(1, len(self._words))))

    def scores(self, query: str) -> NDArray[np.float64]:
        """Of every tool of the pool, in its order."""
        found = np.zeros(len(self.tools))
        data, rows, starts = self._matrix.data, self._matrix.indices, self._matrix.indptr
        for word in tokens(query):
            if (column := self._words.get(word)) is not None:
                part = slice(starts[column], starts[column + 1])
                found[rows[part]] += data[part]
        return found

    def search(self, query: str, k: int) -> Found:
        """The k best tools."""
        return best(self.tools, self.scores(query), k)


class Embedding:
    """Cosine of vectors of the query and of the tool's text.

    Args:
        tools: the pool.
        embed: a function of texts to vectors, or a sentence encoder's name or folder. "tfidf-svd" is fitted to the pool.
    """

    def __init__(self, tools: Sequence[Tool], embed: Embed = "all-minilm-l6-v2") -> None:
        self.tools = list(tools)
        texts = [document(tool) for tool in self.tools]
        if embed == "tfidf-svd" and texts:
            self._encode: Any = _FittedSvd(texts)
        else:
            self._encode = embedder(embed)
        self._vectors = self._encode(texts) if texts else np.zeros((0, 1))

    def scores(self, query: str) -> NDArray[np.float64]:
        """Of every tool of the pool, in its order."""
        return np.asarray(self._vectors @ self._encode([query])[0]) if self.tools else np.zeros(0)

    def search(self, query: str, k: int) -> Found:
        """The k best tools."""
        return best(self.tools, self.scores(query), k)


class Hybrid:
    """Reciprocal rank fusion of other retrievers over the same pool: Σ 1 / (c + rank).

    Args:
        retrievers: at least one.
        c: how much the first places count less.
        depth: places of each that count.
    Source: Cormack et al. 2009, "Reciprocal rank fusion".
    """

    def __init__(self, retrievers: Sequence[Retriever], *, c: int = 60, depth: int = 100) -> None:
        if not retrievers:
            raise ValueError("retrievers: got none, need at least one")
        self.retrievers, self.c, self.depth = list(retrievers), c, depth

    def search(self, query: str, k: int) -> Found:
        """The k best tools."""
        fused: dict[str, float] = {}
        tools: dict[str, Tool] = {}
        for retriever in self.retrievers:
            for rank, (tool, _) in enumerate(retriever.search(query, max(k, self.depth)), start=1):
                fused[tool.name] = fused.get(tool.name, 0.0) + 1 / (self.c + rank)
                tools[tool.name] = tool
        order = sorted(fused, key=lambda name: -fused[name])[:k]
        return [(tools[name], fused[name]) for name in order]


class _FittedSvd:
    def __init__(self, texts: Sequence[str]) -> None:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import Normalizer

        vectorizer = TfidfVectorizer(sublinear_tf=True, stop_words="english")
        size = min(64, len(texts) - 1)
        self._pipeline = make_pipeline(vectorizer, TruncatedSVD(max(1, size), random_state=42), Normalizer())
        self._pipeline.fit(texts)

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float64]:
        return np.asarray(self._pipeline.transform(texts))


def best(tools: Sequence[Tool], scores: NDArray[np.float64], k: int) -> Found:
    """The k tools of the highest scores; ties go to the earlier one."""
    if k < 1:
        raise ValueError(f"k: got {k}, need at least 1")
    pool = np.flatnonzero(scores > 0)  # of words most are zero, and a partial sort of equal numbers is slow
    if len(pool) < k:
        pool = np.arange(len(scores))
    if k < len(pool) // 4:  # a partial sort first; ties at its edge must not be cut
        own = scores[pool]
        pool = pool[own >= np.partition(own, -k)[-k]]
    order = pool[np.argsort(-scores[pool], kind="stable")][:k]
    return [(tools[index], float(scores[index])) for index in order]


def retrieval_report(
    retriever: Retriever, queries: Sequence[tuple[str, str]], ks: Sequence[int] = (1, 3, 5, 10)
) -> dict[str, float]:
    """Recall at k and mean reciprocal rank.

    Args:
        retriever: over a pool that has all targets.
        queries: pairs of a query and the name of its tool.
        ks: places that count.
    Returns:
        {"R@k": share of queries whose tool is among the first k, "MRR": mean of 1 / its rank (0 where it is not found)}.
    """
    if not queries:
        raise ValueError("queries: got none, need at least one")
    depth = max(*ks, 1000)
    ranks = []
    for query, name in queries:
        names = [tool.name for tool, _ in retriever.search(query, depth)]
        ranks.append(names.index(name) + 1 if name in names else 0)
    found = {f"R@{k}": sum(0 < rank <= k for rank in ranks) / len(ranks) for k in ks}
    return {**found, "MRR": sum(1 / rank for rank in ranks if rank) / len(ranks)}
