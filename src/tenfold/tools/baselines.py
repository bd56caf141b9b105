"""Floors: deciders that anything trained should beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tenfold.tools.metrics import Prediction
from tenfold.tools.ranker import Likeness, SearchHead
from tenfold.tools.samples import DecisionSample


class AlwaysRefuse:
    """Searches, and calls nothing."""

    def decide(self, samples: Sequence[DecisionSample]) -> list[Prediction]:
        """One prediction each."""
        return [Prediction(True) for _ in samples]


class TfidfDecider:
    """The candidate whose words are most like the query's, or none below a threshold; the search by a regression on words.

    Args:
        likeness: fitted to the tools and queries of training.
        head: of `SearchHead.fit(..., letters=False)`; None always searches.
        threshold: cosine below which none fits; 0 always calls.
    """

    def __init__(self, likeness: Likeness, head: SearchHead | None = None, threshold: float = 0.0) -> None:
        self.likeness, self.head, self.threshold = likeness, head, threshold

    def decide(self, samples: Sequence[DecisionSample]) -> list[Prediction]:
        """One prediction each."""
        queries = [sample.query for sample in samples]
        searching = np.ones(len(samples)) if self.head is None else self.head.probabilities(self.likeness, queries)
        found = [Prediction(bool(p > 0.5)) for p in searching]
        for count in sorted({len(sample.candidates) for sample in samples} - {0}):
            index = [i for i, sample in enumerate(samples) if len(sample.candidates) == count]
            cosines = self.likeness.cosines([samples[i] for i in index])
            for i, row in zip(index, cosines, strict=True):
                name = samples[i].names[int(row.argmax())] if row.max() >= self.threshold else None
                found[i] = Prediction(found[i].search, name)
        return found

    def tune(self, samples: Sequence[DecisionSample]) -> float:
        """Choose the threshold with the most right choices on these samples."""
        asked = [sample for sample in samples if sample.branch != "no_search"]
        cosines = self.likeness.cosines(asked)
        best, top = cosines.argmax(1), cosines.max(1)
        right = np.array([sample.names.index(sample.target) if sample.branch == "call" else -1 for sample in asked])
        grid = np.unique(np.concatenate([[0.0], top]))
        scores = [((np.where(top >= cut, best, -1)) == right).mean() for cut in grid[:: max(1, len(grid) // 400)]]
        self.threshold = float(grid[:: max(1, len(grid) // 400)][int(np.argmax(scores))])
        return self.threshold
