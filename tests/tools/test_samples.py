"""Laws of sampling and of building: who is among the candidates, where, from which cluster, and the same every time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tenfold.core.errors import UserError
from tenfold.tools.data import DeerData
from tenfold.tools.sampler import MODES, ToolSampler
from tenfold.tools.samples import BuildReport, DecisionSample, build_samples, read_samples, write_samples
from tenfold.tools.tool import Tool

POOL = [Tool(name=f"tool{i}", description=f"{word} {word}s number {i}") for i, word in enumerate(["cat", "dog", "sun", "tea", "car", "sea", "box", "fig"] * 8)]  # fmt: skip


@pytest.fixture(scope="module", params=["random", "intra_class", "inter_class", "mix"])
def sampler(request: pytest.FixtureRequest) -> ToolSampler:
    return ToolSampler(request.param, n_clusters=8, seed=0, tools=POOL)


def test_candidates(sampler: ToolSampler) -> None:
    places: Counter[int] = Counter()
    for draw in range(10_000):
        target, include = POOL[draw % len(POOL)].name, draw % 2 == 0
        names = [tool.name for tool in sampler.sample(target, include)]
        assert len(names) == len(set(names)) == 5 and (target in names) == include
        if include:
            places[names.index(target)] += 1
    assert stats.chisquare([places[i] for i in range(5)]).pvalue > 0.01


def test_clusters_of_candidates() -> None:
    sampler = ToolSampler(n_clusters=8, seed=1, tools=POOL)
    labels = dict(zip((tool.name for tool in POOL), sampler.clusters().tolist(), strict=True))
    assert len(set(labels.values())) == 8
    for draw in range(400):
        target, include = POOL[draw % 64].name, draw % 2 == 0
        others = [
            labels[tool.name] for tool in sampler.sample(target, include, mode="inter_class") if tool.name != target
        ]
        assert len(set(others)) == len(others) and labels[target] not in others
        own = [labels[tool.name] for tool in sampler.sample(target, include, mode="intra_class")]
        assert set(own) == {labels[target]}
    assert not sampler.report.filled


def test_small_clusters_are_filled_and_counted() -> None:
    pool = [Tool(name=f"t{i}", description=word) for i, word in enumerate(["cat"] * 3 + ["dog"] * 5 + ["sun"] * 4)]
    sampler = ToolSampler("intra_class", n_clusters=3, k=5, tools=pool)
    assert {tool.name for tool in pool[:3]} < {tool.name for tool in sampler.sample("t0", True)}
    assert sampler.report.filled == {"intra_class": 2}
    sampler.sample("t3", False)  # the cluster has exactly k tools
    assert sampler.report.filled == {"intra_class": 3}
    sampler.sample("t0", True, mode="inter_class")
    assert sampler.report.filled["inter_class"] == 3


def test_shares_of_a_mix_are_exact_in_each_branch() -> None:
    sampler = ToolSampler(n_clusters=8, tools=POOL)
    for count in (0, 1, 7, 100, 4675):
        modes = Counter(sampler.modes(count))
        assert sum(modes.values()) == count
        for mode, share in zip(MODES, (0.4, 0.2, 0.4), strict=True):
            assert abs(modes[mode] - share * count) <= 1
    for _ in range(100):
        sampler.sample("tool0", True)
    assert sampler.report.drawn == {"random": 40, "intra_class": 20, "inter_class": 40}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 65}, "k: got 65 candidates of a pool of 64"),
        ({"mode": "other"}, "mode: got 'other'"),
        ({"ratio": (1, 1, 1)}, "add up to 1"),
        ({"k": 0}, "need at least 1"),
    ],
)
def test_settings_that_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ToolSampler(**options, tools=POOL)
    with pytest.raises(ValueError, match="need one of the pool's"):
        ToolSampler(n_clusters=2, tools=POOL).sample("nobody", True)
    with pytest.raises(ValueError, match="need fewer"):
        ToolSampler("random", tools=POOL[:5]).sample("tool0", False)


def test_two_tools_of_one_name_are_named() -> None:
    with pytest.raises(ValueError, match="got two named 'tool3'"):
        ToolSampler(tools=[*POOL, POOL[3]])


def test_calls_that_do_not_fit_their_signature_are_kept_and_counted() -> None:
    calls = ["f(a='x')", "f()", "f(b=1)", "f(a='x', b=1)", "f(a=3)"]
    row = {"api_name": "f", "description_for_human": "d", "api_function": "f(a: str)", "example": [{"query": call, "call": call} for call in calls]}  # fmt: skip
    report = BuildReport()
    samples = build_samples([row], [], call_ratio=1, sampler=ToolSampler("random", k=1), report=report)
    assert len(samples) == 5 and not report.dropped
    assert report.unfit == {"missing_arg": 1, "unknown_arg": 2}


def test_building_from_the_catalogue(deer: DeerData) -> None:
    report = BuildReport()
    samples = build_samples(deer.train, deer.nosearch_train, sampler=ToolSampler(mode="random"), report=report)
    assert report.dropped == {"parse": 91}
    assert report.kept == {"call": 4675, "no_call": 3118, "no_search": 409}
    assert report.unfit == {"missing_arg": 99, "unknown_arg": 28}
    unseen = {each.tool.name for each in deer.unseen}
    shown = {name for sample in samples for name in (*sample.names, sample.target)}
    assert not unseen & shown
    assert all((sample.target in sample.names) == (sample.branch == "call") for sample in samples)


SCRIPT = """
import sys, json
from tenfold.tools.sampler import ToolSampler
from tenfold.tools.samples import build_samples, write_samples
rows = [{"api_name": f"f{i}", "description_for_human": f"does {'abcdefgh'[i % 8] * 3} {i}", "api_function": f"f{i}(a: str)",
         "example": [{"query": f"q{i} {j}", "call": f"f{i}(a='{j}')"} for j in range(4)]} for i in range(40)]
write_samples(sys.argv[1], build_samples(rows, ["hello", "there"], sampler=ToolSampler(n_clusters=8, seed=3), seed=3))
"""


def test_the_same_file_every_time(tmp_path: Path) -> None:
    contents = []
    for seed in ("0", "77"):
        out = tmp_path / f"{seed}.jsonl"
        subprocess.run([sys.executable, "-c", SCRIPT, str(out)], check=True, env={**os.environ, "PYTHONHASHSEED": seed})
        contents.append(out.read_bytes())
    assert contents[0] == contents[1]
    samples = read_samples(tmp_path / "0.jsonl")
    assert Counter(sample.branch for sample in samples) == {"call": 96, "no_call": 64, "no_search": 2}
    write_samples(tmp_path / "again.jsonl", samples)
    assert (tmp_path / "again.jsonl").read_bytes() == contents[0]


def test_files_that_are_no_samples(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    with pytest.raises(UserError, match="file not found"):
        read_samples(path)
    for row in ({"query": "q"}, {"query": "q", "branch": "other"}, {"query": "q", "branch": "call", "candidates": [1]}):
        path.write_text(json.dumps(row) + "\n")
        with pytest.raises(UserError, match=r"s\.jsonl:1: "):
            read_samples(path)


def test_samples_that_contradict_themselves() -> None:
    from tenfold.tools.samples import Call, Candidate

    a, none = Candidate("a", "", "a()"), Candidate("none", "", "none()")
    for given in (
        {"branch": "call", "candidates": (a,), "target": "b", "call": Call("b", {})},
        {"branch": "call", "candidates": (a,), "target": "a"},
        {"branch": "no_call", "candidates": (a,), "target": "a"},
        {"branch": "no_search", "candidates": (a,)},
        {"branch": "no_call"},
        {"branch": "no_call", "candidates": (a, a)},
        {"branch": "no_call", "candidates": (none,)},
    ):
        with pytest.raises(ValueError, match=r"need|named"):
            DecisionSample("q", **given)  # type: ignore[arg-type]


def test_any_embedding_may_make_the_clusters() -> None:
    sampler = ToolSampler(n_clusters=2, tools=POOL, embed=lambda texts: [[1.0, 0.0] if "cat" in text else [0.0, 1.0] for text in texts])  # fmt: skip
    labels = sampler.clusters()
    assert len(set(labels[np.arange(64) % 8 == 0].tolist())) == 1 and len(set(labels.tolist())) == 2
