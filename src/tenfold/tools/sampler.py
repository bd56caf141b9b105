"""Which tools a query is shown: at random, of one cluster, or one of each of several clusters."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tenfold.tools.tool import Tool
from tenfold.tools.words import Embed, embedder

Mode = Literal["random", "intra_class", "inter_class"]
MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass
class SamplerReport:
    """What sampling had to bend.

    Args:
        filled: candidates from other clusters than the mode asks for, by mode: a cluster was too small, or clusters too few.
        drawn: candidate sets by mode.
    """

    filled: Counter[str] = field(default_factory=Counter)
    drawn: Counter[str] = field(default_factory=Counter)


class ToolSampler:
    """Draws k candidates for a target, with it or without it.

    random: k tools of the pool. intra_class: k of the target's cluster, filled from the nearest clusters where it is too
    small. inter_class: one tool from each of k other clusters. mix: each of these for its share of the samples.
    A draw depends on (seed, its number) alone.

    Args:
        mode: "mix", "random", "intra_class" or "inter_class".
        ratio: shares of random, intra_class, inter_class in a mix, adding up to 1.
        k: candidates, at least 1.
        n_clusters: of k-means; at most as many as there are tools.
        seed: of the draws; clusters always take 42, as the paper's code.
        tools: the pool; None: given later by `fit`, or by `build_samples`.
        embed: what tools are clustered by: "tfidf-svd", a function of texts to vectors, or a sentence encoder's name or folder.
    Raises:
        ValueError: an argument out of range, k larger than the pool.
    Source: Gui et al. 2024, section 3.3; mixture 2:1:2.
    """

    def __init__(
        self,
        mode: Mode | Literal["mix"] = "mix",
        ratio: tuple[float, float, float] = (0.4, 0.2, 0.4),
        k: int = 5,
        n_clusters: int = 30,
        seed: int = 42,
        *,
        tools: Sequence[Tool] | None = None,
        embed: Embed = "tfidf-svd",
    ) -> None:
        if mode not in ("mix", *MODES):
            raise ValueError(f"mode: got {mode!r}, need mix, {', '.join(MODES)}")
        if len(ratio) != 3 or min(ratio) < 0 or abs(sum(ratio) - 1) > 1e-6:
            raise ValueError(f"ratio: got {ratio}, need three shares that add up to 1")
        if k < 1 or n_clusters < 1:
            raise ValueError(f"k, n_clusters: got {k}, {n_clusters}, need at least 1")
        self.mode, self.ratio, self.k, self.n_clusters, self.seed, self.embed = mode, ratio, k, n_clusters, seed, embed
        self.report = SamplerReport()
        self.tools: list[Tool] = []
        self._draws = 0
        self._mixed: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
        if tools is not None:
            self.fit(tools)

    @property
    def fitted(self) -> bool:
        """Whether there is a pool."""
        return bool(self.tools)

    def fit(self, tools: Sequence[Tool]) -> ToolSampler:
        """Take a pool; clusters are made when they are first needed."""
        names = [tool.name for tool in tools]
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise ValueError(f"tools: got two named {twice[0]!r}, need different names")
        if self.k > len(tools):
            raise ValueError(f"k: got {self.k} candidates of a pool of {len(tools)}, need at most as many")
        self.tools = list(tools)
        self._index = {name: index for index, name in enumerate(names)}
        self.__dict__.pop("_clustering", None)
        return self

    def clusters(self) -> NDArray[np.int64]:
        """The cluster of every tool, in the order of the pool."""
        return self._clustering[0]

    def modes(self, count: int) -> list[Mode]:
        """The mode of each of so many samples of one branch, in order: exact shares, to rounding."""
        if self.mode != "mix":
            return [self.mode] * count
        edges = [0, *(round(count * share) for share in np.cumsum(self.ratio))]
        edges[-1] = count
        return [mode for mode, (start, stop) in zip(MODES, pairwise(edges), strict=True) for _ in range(stop - start)]

    def sample(self, target: str | Tool, include: bool, *, mode: Mode | None = None) -> list[Tool]:
        """Candidates in the order in which they are shown.

        Args:
            target: the tool that fits, one of the pool.
            include: whether it is among them.
            mode: of this draw; None: the sampler's own, where a mix takes the one that is behind its share.
        Raises:
            ValueError: no pool, no such tool, or no k tools beside it.
        """
        name = target if isinstance(target, str) else target.name
        if not self.fitted or name not in self._index:
            raise ValueError(f"target: got {name!r}, need one of the pool's {len(self.tools)} tools")
        if not include and self.k >= len(self.tools):
            raise ValueError(
                f"k: got {self.k} candidates of a pool of {len(self.tools)} without the target, need fewer"
            )
        mode = mode or self._next_mode(include)
        self._draws += 1
        draw = random.Random(f"candidates {self.seed} {self._draws}")
        goal = self._index[name]
        drawn = _DRAW[mode](self, goal, include, draw)
        if include and goal not in drawn:
            drawn[draw.randrange(self.k)] = goal
        self.report.drawn[mode] += 1
        return [self.tools[index] for index in drawn]

    def _next_mode(self, include: bool) -> Mode:
        if self.mode != "mix":
            return self.mode
        counts = self._mixed[include]
        total = sum(counts.values()) + 1
        behind = [share * total - counts[mode] for mode, share in zip(MODES, self.ratio, strict=True)]
        mode = MODES[behind.index(max(behind))]
        counts[mode] += 1
        return mode

    def _random(self, goal: int, include: bool, draw: random.Random) -> list[int]:
        pool = [index for index in range(len(self.tools)) if include or index != goal]
        return draw.sample(pool, self.k)

    def _intra_class(self, goal: int, include: bool, draw: random.Random) -> list[int]:
        labels = self.clusters()
        own = [index for index in np.flatnonzero(labels == labels[goal]).tolist() if include or index != goal]
        if len(own) >= self.k:
            return draw.sample(own, self.k)
        self.report.filled["intra_class"] += self.k - len(own)
        found = own
        for cluster in self._nearest(int(labels[goal])):
            more = np.flatnonzero(labels == cluster).tolist()
            found = found + draw.sample(more, min(len(more), self.k - len(found)))
            if len(found) == self.k:
                break
        return draw.sample(found, self.k)

    def _inter_class(self, goal: int, include: bool, draw: random.Random) -> list[int]:
        labels = self.clusters()
        others = [cluster for cluster in range(int(labels.max()) + 1) if cluster != labels[goal]]
        chosen = draw.sample(others, min(self.k, len(others)))
        found = [draw.choice(np.flatnonzero(labels == cluster).tolist()) for cluster in chosen]
        if len(found) < self.k:
            self.report.filled["inter_class"] += self.k - len(found)
            left = [index for index in range(len(self.tools)) if index not in found and index != goal]
            if include and len(left) < self.k - len(found):
                left.append(goal)
            found += draw.sample(left, self.k - len(found))
        return found

    def _nearest(self, cluster: int) -> list[int]:
        centres = self._clustering[1]
        distance = np.linalg.norm(centres - centres[cluster], axis=1)
        return [int(each) for each in np.argsort(distance, kind="stable") if each != cluster]

    @cached_property
    def _clustering(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        from sklearn.cluster import KMeans

        texts = [tool.description or tool.name for tool in self.tools]
        vectors = embedder(self.embed)(texts)
        found = KMeans(min(self.n_clusters, len(np.unique(vectors, axis=0))), random_state=42, n_init=4).fit(vectors)
        labels = found.labels_.astype(np.int64)
        used = np.unique(labels)  # k-means may leave a cluster empty
        return np.searchsorted(used, labels), found.cluster_centers_[used]


_DRAW: dict[Mode, Callable[[ToolSampler, int, bool, random.Random], list[int]]] = {
    "random": ToolSampler._random,
    "intra_class": ToolSampler._intra_class,
    "inter_class": ToolSampler._inter_class,
}
