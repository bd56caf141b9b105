"""Our adapters in PEFT and PEFT's in ours: the same logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.nn import lora
from tenfold.nn.lora_layer import adapter_pairs

CFG = DecoderConfig(vocab_size=70, dim=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=12, ffn_dim=48, max_len=64)
IDS = torch.randint(0, 70, (2, 17), generator=torch.Generator().manual_seed(1))


def decoder(**fields: Any) -> Decoder:
    return Decoder(DecoderConfig(**(vars(CFG) | fields)), torch.Generator().manual_seed(0)).eval()


def theirs(model: Decoder, folder: Path) -> torch.nn.Module:
    model.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize(
    ("fields", "targets"),
    [
        ({}, "all-linear"),
        ({"qk_norm": False, "tie_embeddings": False}, "all-linear"),
        ({"rope_layout": "interleaved"}, ["q_proj", "k_proj", "down_proj"]),
    ],
)
def test_peft_opens_ours(fields: dict[str, Any], targets: Any, tmp_path: Path) -> None:
    reference = theirs(decoder(**fields), tmp_path / "model")
    model = lora.add_lora(decoder(**fields), 4, alpha=10, targets=targets)
    for _, b_OR in adapter_pairs(model).values():
        b_OR.data.normal_(std=0.1, generator=torch.Generator().manual_seed(2))
    lora.save(model, tmp_path / "adapter")
    before = logits(reference)
    wrapped = PeftModel.from_pretrained(reference, tmp_path / "adapter").eval()
    after = logits(wrapped)
    assert (after - before).abs().max() > 0.05
    with torch.no_grad():
        torch.testing.assert_close(model(IDS), after, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "up_proj"]])
@pytest.mark.parametrize("layout", ["half", "interleaved"])
def test_ours_opens_peft_s(targets: Any, layout: str, tmp_path: Path) -> None:
    reference = theirs(decoder(rope_layout=layout), tmp_path / "model")
    config = LoraConfig(r=3, lora_alpha=5, target_modules=targets, task_type="CAUSAL_LM", init_lora_weights=False)
    torch.manual_seed(3)
    wrapped = get_peft_model(reference, config).eval()
    wrapped.save_pretrained(tmp_path / "adapter")
    model = lora.load(decoder(rope_layout=layout), tmp_path / "adapter")
    with torch.no_grad():
        torch.testing.assert_close(model(IDS), logits(wrapped), rtol=2e-5, atol=2e-5)
