"""Folders of models: whole, in shards, damaged, and interrupted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tenfold.core import model_folder
from tenfold.core.errors import UserError
from tenfold.diffusion.config import ECDiTConfig
from tenfold.diffusion.pretrained import write_model
from tenfold.diffusion.transformer import ECDiT

SMALL = ECDiTConfig(
    image_size=8,
    patch_size=2,
    dim=16,
    num_layers=3,
    num_heads=2,
    text_dim=12,
    num_experts=4,
    moe_layers=(1, 2),
    router="random",
    qk_norm=True,
)


def make(seed: int = 0) -> ECDiT:
    return ECDiT(SMALL, generator=torch.Generator().manual_seed(seed))


def same(a: ECDiT, b: ECDiT) -> bool:
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(x == y and torch.equal(p, q) for (x, p), (y, q) in pairs)


def test_round_trip(tmp_path: Path) -> None:
    model = make()
    model.save_pretrained(tmp_path / "new" / "folder")
    back = ECDiT.from_pretrained(tmp_path / "new" / "folder")
    assert back.config == SMALL
    assert same(model, back)
    frozen = [name for name, parameter in back.named_parameters() if not parameter.requires_grad]
    assert frozen == ["blocks.1.ffn.gate_weight", "blocks.2.ffn.gate_weight"]
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == ["config.json", "model.safetensors"]
    assert (
        next(ECDiT.from_pretrained(tmp_path / "new" / "folder", dtype=torch.bfloat16).parameters()).dtype
        == torch.bfloat16
    )
    model.bfloat16().save_pretrained(str(tmp_path / "half"))
    assert next(ECDiT.from_pretrained(str(tmp_path / "half")).parameters()).dtype == torch.bfloat16


def test_shards_and_their_index(tmp_path: Path) -> None:
    model = make()
    write_model(model, tmp_path, max_shard_bytes=30_000)
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) > 2
    assert shards[-1].name == f"model-{len(shards):05d}-of-{len(shards):05d}.safetensors"
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == model.state_dict().keys()
    assert index["metadata"]["total_size"] == sum(4 * p.numel() for p in model.parameters())
    # Only a tensor that is larger by itself may pass the limit.
    assert all(sum(t.nbytes for t in load_file(shard).values()) <= 30_000 for shard in shards)
    assert same(ECDiT.from_pretrained(tmp_path), model)
    # A smaller model takes the place of all of them; a stranger's file stays.
    (tmp_path / "notes.txt").write_text("mine")
    make(1).save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors", "notes.txt"]
    assert same(ECDiT.from_pretrained(tmp_path), make(1))


def test_an_interrupted_write_leaves_the_old_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    model.save_pretrained(tmp_path)
    calls = []

    def fails(tensors: object, path: Path, **options: object) -> None:
        calls.append(path)
        if len(calls) == 2:
            raise OSError("disk full")
        path.write_bytes(b"half")

    monkeypatch.setattr(model_folder, "save_file", fails)
    with pytest.raises(OSError, match="disk full"):
        write_model(make(1), tmp_path, max_shard_bytes=30_000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert same(ECDiT.from_pretrained(tmp_path), model)


def change_config(**fields: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**content, **fields}))

    return change


def change_tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return apply


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def in_shards(weight_map: dict[str, object]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "part.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    return change


DAMAGE = [
    (lambda folder: (folder / "config.json").unlink(), r"model not found: .*config\.json"),
    (lambda folder: (folder / "config.json").write_text("{"), "not valid JSON"),
    (lambda folder: (folder / "config.json").write_text("[]"), "need a JSON object"),
    (lambda folder: (folder / "model.safetensors").unlink(), r"weights not found: .*model\.safetensors \(pickled"),
    (truncate, "is not a whole safetensors file"),
    (lambda folder: (folder / "model.safetensors").write_bytes(b"PK"), "is not a whole safetensors file"),
    (
        change_config(_class_name="PixArtTransformer2DModel"),
        "_class_name: need 'ECDiT'; weights of PixArt are read with",
    ),
    (change_config(dim="wide"), 'config.json: dim: got "wide", need int'),
    (change_config(dims=16), r"config.json: dims: unknown field \(did you mean dim\?\)"),
    (change_config(num_heads=3), "config.json: dim: got 16, need a multiple of num_heads = 3"),
    (change_config(num_layers=10**9), "num_layers: got 1000000000, need at least 1, at most 4096"),
    (change_config(num_layers=4096), "num_layers: got 4096, need at most 3, the blocks among the tensors"),
    (change_config(num_layers=2, moe_layers=[1]), r"unexpected blocks\.2\.attn.* and 21 more"),
    (change_config(text_dim=13), r"wrong shape text_mlp.0.weight \(16, 12\) \(need \(16, 13\)\)"),
    (change_tensors(lambda t: t.pop("final_table")), "missing final_table"),
    (change_tensors(lambda t: t.update(final_table=t["final_table"].long())), "wrong type final_table torch.int64"),
    (in_shards({"final_table": "../part.safetensors"}), "weight_map: got '../part.safetensors', need the name"),
    (in_shards({"final_table": 3}), "weight_map: got 3, need the name"),
    (in_shards({"final_table": "gone.safetensors"}), r"weights not found: .*gone\.safetensors, a shard"),
    (in_shards({"ghost": "part.safetensors"}), "the shards lack tensors of model.safetensors.index.json: ghost"),
    (in_shards([]), "weight_map: got \\[\\], need a shard"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_damaged_folders(damage: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    make().save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        ECDiT.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)
