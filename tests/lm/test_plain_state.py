"""Only what a configuration describes is written: adapters and palettes are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tenfold.compress.palettize import palettize
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.nn.lora import add_lora, merge

CFG = DecoderConfig(vocab_size=50, dim=24, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=6, ffn_dim=32, max_len=160)


def test_adapters_and_palettes_are_refused_and_a_merged_model_is_written(tmp_path: Path) -> None:
    model = add_lora(Decoder(CFG, torch.Generator().manual_seed(0)), 2, name="a")
    with pytest.raises(ValueError, match=r"model: has adapters \(a\)"):
        model.save_pretrained(tmp_path)
    merge(model, "a").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="its tensors are not those of its config"):
        palettize(model).save_pretrained(tmp_path / "small")
