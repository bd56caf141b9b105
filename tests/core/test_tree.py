"""State as JSON beside named tensors: it comes back, and no tensor takes another's place."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tenfold.core.tree import flatten, unflatten


def test_trees_of_tensors_survive_json() -> None:
    shared = torch.arange(6.0).view(2, 3)
    tree = {
        "a": [shared, shared.T, shared[0], {"b": np.arange(3), "c": None}],
        "again": shared,
        "numbers": [1, 2.5, True, "x", float("inf"), 2**100],
        "empty": [torch.zeros(0), torch.zeros(0, 3)],
        "generator": torch.Generator().manual_seed(1).get_state(),
    }
    plain, tensors = flatten(tree)
    assert plain["again"] == plain["a"][0]  # kept once
    assert all(t.is_contiguous() and t.untyped_storage().nbytes() == t.nbytes for t in tensors.values())
    back = unflatten(json.loads(json.dumps(plain)), tensors)
    assert torch.equal(back["a"][1], shared.T)
    assert torch.equal(back["a"][2], shared[0])
    assert isinstance(back["a"][3]["b"], np.ndarray)
    assert back["numbers"] == tree["numbers"]
    assert [tuple(t.shape) for t in back["empty"]] == [(0,), (0, 3)]
    with pytest.raises(TypeError, match="need strings"):
        flatten({1: 2})
    with pytest.raises(TypeError, match="state a/b: got set"):
        flatten({"a": {"b": {1}}})


def test_two_tensors_of_one_name_are_refused() -> None:
    same = {"a/b": torch.zeros(2), "a": {"b": torch.ones(2)}}
    for tree in (same, {**same, "a/b": np.zeros(2)}, {**same, "a": {"b": np.ones(2)}}, {**same, "a/b": torch.zeros(0)}):
        with pytest.raises(ValueError, match="state a/b: got two tensors of this name"):
            flatten(tree)
    shared = torch.ones(2)
    assert flatten({"a/b": shared, "a": {"b": shared}})[1].keys() == {"a/b"}  # one tensor may stand in both places
