"""Retrievers: figures of the catalogue, order of ties, fusion."""

from __future__ import annotations

import numpy as np
import pytest

from tenfold.tools.data import DeerData
from tenfold.tools.retrieval import BM25, Embedding, Hybrid, Retriever, best, retrieval_report
from tenfold.tools.tool import Tool
from tenfold.tools.words import split_name, tokens

POOL = [Tool(name=name, description=text) for name, text in (("getWeather", "weather of a city"), ("mail", "send mail"), ("send_mail", "send mail to a city"), ("calc", "sums"))]  # fmt: skip


def test_figures_on_tools_never_seen(deer: DeerData) -> None:
    queries = [(query, entry.tool.name) for entry in deer.unseen for query, _ in entry.examples]
    found = retrieval_report(BM25([entry.tool for entry in deer.unseen]), queries)
    assert [round(100 * found[key], 1) for key in ("R@1", "R@5", "R@10")] == pytest.approx([46.6, 67.4, 71.5], abs=0.3)
    assert found["MRR"] == pytest.approx(0.559, abs=0.003)


def test_ties_go_to_the_earlier_tool_however_many_are_asked_for() -> None:
    pool = [Tool(name=f"t{i}", description="same") for i in range(40)]
    retriever = BM25(pool)
    for k in (1, 5, 20, 40, 100):
        assert [tool.name for tool, _ in retriever.search("same", k)] == [f"t{i}" for i in range(min(k, 40))]
    with pytest.raises(ValueError, match="k: got 0"):
        retriever.search("same", 0)


@pytest.mark.parametrize("retriever", [BM25(POOL), Embedding(POOL, "tfidf-svd"), Hybrid([BM25(POOL), Embedding(POOL, "tfidf-svd")])])  # fmt: skip
def test_the_tool_meant_comes_first(retriever: Retriever) -> None:
    assert isinstance(retriever, Retriever)
    assert retriever.search("What is the weather?", 2)[0][0].name == "getWeather"
    scores = [score for _, score in retriever.search("mail", 4)]
    assert scores == sorted(scores, reverse=True)
    assert np.isfinite([score for _, score in retriever.search("", 4)]).all()


def test_fusion_by_hand() -> None:
    class Fixed:
        def __init__(self, *names: str) -> None:
            self.names = names

        def search(self, query: str, k: int) -> list[tuple[Tool, float]]:
            return [(Tool(name=name), 1.0) for name in self.names[:k]]

    fused = Hybrid([Fixed("a", "b", "c"), Fixed("c", "a")], c=60).search("q", 3)
    assert [(tool.name, round(score, 6)) for tool, score in fused] == [("a", round(1 / 61 + 1 / 62, 6)), ("c", round(1 / 63 + 1 / 61, 6)), ("b", round(1 / 62, 6))]  # fmt: skip


def test_words_of_names() -> None:
    assert split_name("getHTTPResponse_by_id") == "get HTTP Response by id"
    assert tokens("Größe 3a-b") == ["gr", "e", "3a", "b"]


def test_an_empty_pool_finds_nothing() -> None:
    assert BM25([]).search("x", 3) == [] and Embedding([], "tfidf-svd") is not None


def test_a_report_needs_queries() -> None:
    with pytest.raises(ValueError, match="got none"):
        retrieval_report(BM25(POOL), [])


def test_the_best_are_those_of_a_whole_sort() -> None:
    draw = np.random.default_rng(0)
    tools = [Tool(name=f"tool_{i}") for i in range(60)]
    for _ in range(500):
        count, k = int(draw.integers(1, 61)), int(draw.integers(1, 70))
        scores = draw.integers(-2, 4, count) * draw.choice([0.5, 1.0])  # many ties, zeros and scores below zero
        order = sorted(range(count), key=lambda i: (-scores[i], i))[:k]
        assert [tool.name for tool, _ in best(tools[:count], scores, k)] == [tools[i].name for i in order]
