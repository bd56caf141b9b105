"""Our decoder against transformers' Llama, Qwen3, Mixtral and Qwen3-MoE, folders read in both directions."""

from __future__ import annotations

import dataclasses
import gc
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    MixtralConfig,
    PreTrainedModel,
    Qwen3Config,
    Qwen3MoeConfig,
)

from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.gguf import convert
from tenfold.nn.moe import MoEConfig
from tenfold.text.tokenizer import Tokenizer

SHAPE = {
    "vocab_size": 70,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
ROPE = {"rope_type": "default", "rope_theta": 5e5}
THEIRS = {
    "llama": LlamaConfig(**SHAPE, rope_parameters=ROPE),
    "llama_tied": LlamaConfig(**SHAPE, head_dim=12, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SHAPE, head_dim=12, rope_parameters=ROPE, tie_word_embeddings=True),
    "qwen3_untied": Qwen3Config(**SHAPE, head_dim=8),
    "mixtral": MixtralConfig(**SHAPE, num_local_experts=4, rope_parameters=ROPE),
    "qwen3_moe": Qwen3MoeConfig(
        **SHAPE, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, norm_topk_prob=True
    ),
    "qwen3_moe_mixed": Qwen3MoeConfig(
        **SHAPE, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, mlp_only_layers=[0]
    ),
}
BASE = DecoderConfig(vocab_size=70, dim=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=12, ffn_dim=48, max_len=64)
TOPK = MoEConfig(32, 24, num_experts=4, router="topk", dropless=True)
EVERY = {"moe_every": 1, "moe_offset": 0}
OURS = {
    "qwen3": BASE,
    "qwen3_interleaved": dataclasses.replace(BASE, rope_layout="interleaved"),
    "llama": dataclasses.replace(BASE, qk_norm=False, tie_embeddings=False),
    "mixtral": dataclasses.replace(BASE, qk_norm=False, moe=TOPK, **EVERY),
    "qwen3_moe": dataclasses.replace(BASE, moe=TOPK, **EVERY),
}


def randomize(model: torch.nn.Module, seed: int) -> None:
    """Norm weights away from 1, other weights large enough that the layers matter."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        weight.data = 1 + 0.3 * noise if "norm" in name else 0.15 * noise


def difference(ours: Decoder, theirs: PreTrainedModel, dtype: torch.dtype = torch.float32) -> float:
    ids = torch.randint(0, 70, (3, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return (ours.to(dtype)(ids) - theirs.to(dtype)(ids).logits).abs().max().item()


@pytest.mark.parametrize("name", THEIRS)
def test_their_folder_in_ours(name: str, tmp_path: Path) -> None:
    theirs = AutoModelForCausalLM.from_config(THEIRS[name]).eval()
    randomize(theirs, seed=1)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = Decoder.from_pretrained(tmp_path / "theirs").eval()
    assert difference(ours, theirs) <= 2e-5
    if name != "qwen3_moe_mixed":  # sparse layers between dense ones are written under our own name
        ours.float().save_pretrained(tmp_path / "ours")
        one, two = (load_file(tmp_path / side / "model.safetensors") for side in ("theirs", "ours"))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("name", OURS)
def test_our_folder_in_theirs(name: str, tmp_path: Path) -> None:
    ours = Decoder(OURS[name], torch.Generator().manual_seed(0)).eval()
    randomize(ours, seed=2)
    ours.save_pretrained(tmp_path)
    theirs, report = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert difference(ours, theirs.eval()) <= 2e-5


@pytest.mark.parametrize("name", ["qwen3", "llama"])
def test_float64(name: str, tmp_path: Path) -> None:
    ours = Decoder(OURS[name], torch.Generator().manual_seed(0)).eval()
    ours.save_pretrained(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert difference(ours, theirs, torch.float64) <= 5e-6


def test_padding_and_positions_agree(tmp_path: Path) -> None:
    ours = Decoder(OURS["qwen3"], torch.Generator().manual_seed(0)).eval()
    randomize(ours, seed=3)
    ours.save_pretrained(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ids = torch.randint(0, 70, (2, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(2, 12, dtype=torch.int64)
    mask[0, :5] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        expected = theirs(ids, attention_mask=mask, position_ids=positions).logits
        logits = ours(ids, positions=positions, mask=mask.bool())
    real = mask.bool()
    assert (logits[real] - expected[real]).abs().max() <= 2e-5


@pytest.mark.slow
def test_smollm2(smollm2_file: Path, tmp_path: Path) -> None:
    options = {"gguf_file": smollm2_file.name}
    theirs = AutoModelForCausalLM.from_pretrained(smollm2_file.parent, dtype=torch.float32, **options).eval()
    their_tokenizer = AutoTokenizer.from_pretrained(smollm2_file.parent, **options)
    convert(smollm2_file, tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    text = "The capital of France is Paris: 1234 people, isn't it?\n\n  def f(x):\n\treturn x + 10 😀 "
    ids = tokenizer.encode(text)
    assert ids == their_tokenizer(text).input_ids
    assert tokenizer.decode(ids) == text
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    chat = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    assert chat == their_tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits
        for source in (smollm2_file, tmp_path):
            ours = Decoder.from_pretrained(source).eval()
            assert (ours(torch.tensor([ids])) - expected).abs().max() <= 2e-4
            del ours
            gc.collect()
        opened = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
        assert (opened(torch.tensor([ids])).logits - expected).abs().max() <= 2e-4
