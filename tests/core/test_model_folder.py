"""Folders of config.json and safetensors: whole or in shards, never half, never from outside; models' own tests say more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tenfold.core.errors import UserError
from tenfold.core.model_folder import listed, read_tensors, write_folder

TENSORS = {f"t{i}": torch.full((4,), float(i)) for i in range(5)}


@pytest.mark.parametrize(("most", "files"), [(10**9, 1), (32, 3), (1, 5)])
def test_what_was_written_is_read(most: int, files: int, tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": 1}, {"old": torch.zeros(3)}, stem="weights", max_shard_bytes=1)
    write_folder(tmp_path, {"a": 2}, TENSORS, stem="weights", max_shard_bytes=most)
    back = read_tensors(tmp_path, stem="weights")
    assert back.keys() == TENSORS.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in TENSORS.items())
    assert len(list(tmp_path.glob("weights*.safetensors"))) == files
    assert json.loads((tmp_path / "config.json").read_text()) == {"a": 2}


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({}, "need a shard's name for every tensor"),
        ({"a": "../x.safetensors"}, "need the name of a .safetensors file beside it"),
        ({"a": ["x.safetensors"]}, "need the name of a .safetensors file beside it"),
        ({"a": "x.bin"}, "need the name of a .safetensors file beside it"),
        ({"a": "x.safetensors"}, "a shard that model.safetensors.index.json names"),
    ],
)
def test_a_bad_index_is_one_line(weight_map: dict, message: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(UserError, match=message) as caught:
        read_tensors(tmp_path)
    assert "\n" not in str(caught.value)


def test_long_lists_are_cut() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed("abcdefg", 2) == "a, b and 5 more"
