"""Tool use beside published packages: BM25 beside rank-bm25, verdicts on arguments beside jsonschema."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jsonschema import Draft202012Validator
from rank_bm25 import BM25Okapi

from tenfold.tools.data import BFCL, bfcl_items, load
from tenfold.tools.retrieval import BM25
from tenfold.tools.tool import ToolRegistry
from tenfold.tools.words import document, tokens


def test_scores_of_bm25(data_dir: Path) -> None:
    unseen = load("deer", root=data_dir).unseen
    tools = [entry.tool for entry in unseen]
    ours, theirs = BM25(tools), BM25Okapi([tokens(document(tool)) for tool in tools], k1=1.5, b=0.75, epsilon=0.25)  # fmt: skip
    for entry in unseen:
        for query, _ in entry.examples:
            assert np.abs(ours.scores(query) - theirs.get_scores(tokens(query))).max() <= 1e-6


def mutated(arguments: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield arguments
    yield {**arguments, "unheard_of": 1}
    for name in arguments:
        yield {key: value for key, value in arguments.items() if key != name}
        for value in (None, True, 3, 3.0, 3.5, "3", [], [1], {}, {"a": 1}):
            yield {**copy.deepcopy(arguments), name: value}


def test_verdicts_of_jsonschema(data_dir: Path) -> None:
    checked = 0
    for category in BFCL[:-1]:
        for item in bfcl_items(category, data_dir)[::5]:
            registry = ToolRegistry.from_bfcl({function["name"]: function for function in item.functions}.values())
            (name, accepted), *_ = item.truth[0].items()
            validator = Draft202012Validator(registry.get(name).parameters)
            for arguments in mutated({key: values[0] for key, values in accepted.items() if values[0] != ""}):
                assert validator.is_valid(arguments) == (not registry.validate({"name": name, "arguments": arguments}))
                checked += 1
    assert checked > 3000
