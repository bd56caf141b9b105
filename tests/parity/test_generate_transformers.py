"""Greedy generation against transformers' `generate(do_sample=False)`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.generate import generate
from tenfold.nn.moe import MoEConfig

CFG = DecoderConfig(vocab_size=70, dim=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, ffn_dim=48, max_len=64)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Decoder, PreTrainedModel]:
    folder = tmp_path_factory.mktemp("model")
    ours = Decoder(CFG, torch.Generator().manual_seed(0)).eval()
    ours.embed_tokens.weight.data *= 4
    ours.save_pretrained(folder)
    return ours, AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def test_one_row(pair: tuple[Decoder, PreTrainedModel]) -> None:
    ours, theirs = pair
    ids = torch.randint(0, 70, (1, 9), generator=torch.Generator().manual_seed(1))
    expected = theirs.generate(ids, do_sample=False, max_new_tokens=40, eos_token_id=None, pad_token_id=0)[0, 9:]
    assert generate(ours, ids, max_new_tokens=40, temperature=0).ids == [expected.tolist()]


def test_left_padded_batch(pair: tuple[Decoder, PreTrainedModel]) -> None:
    ours, theirs = pair
    ids = torch.randint(0, 70, (3, 12), generator=torch.Generator().manual_seed(2))
    mask = torch.ones(3, 12, dtype=torch.int64)
    mask[0, :7], mask[2, :2] = 0, 0
    options = {"do_sample": False, "max_new_tokens": 30, "eos_token_id": None, "pad_token_id": 0}
    expected = theirs.generate(ids, attention_mask=mask, **options)[:, 12:]
    assert generate(ours, ids, max_new_tokens=30, temperature=0, mask=mask.bool()).ids == expected.tolist()


def test_stop_token(pair: tuple[Decoder, PreTrainedModel]) -> None:
    ours, theirs = pair
    ids = torch.randint(0, 70, (1, 9), generator=torch.Generator().manual_seed(3))
    free = generate(ours, ids, max_new_tokens=20, temperature=0).ids[0]
    stop = free[min(5, len(free) - 1)]
    options = {"do_sample": False, "max_new_tokens": 20, "eos_token_id": stop, "pad_token_id": 0}
    expected = theirs.generate(ids, **options)[0, 9:].tolist()
    made = generate(ours, ids, max_new_tokens=20, temperature=0, stop=[stop])
    assert made.ids == [expected]
    assert made.finished == [True]


@pytest.mark.parametrize("moe", [None, MoEConfig(32, 24, num_experts=4, router="topk", dropless=True)])
def test_no_token_ends_a_text_by_itself(moe: MoEConfig | None, tmp_path: Path) -> None:
    """Llama's and Mixtral's classes take tokens 1 and 2 for begin and end where the config is silent."""
    cfg = dataclasses.replace(CFG, qk_norm=False, moe=moe, moe_every=1, moe_offset=0)
    Decoder(cfg, torch.Generator().manual_seed(0)).save_pretrained(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert theirs.config.bos_token_id is None
    assert theirs.config.eos_token_id is None
    ids = torch.randint(3, 70, (1, 9), generator=torch.Generator().manual_seed(3))
    others = [token for token in range(70) if token != 2]
    made = theirs.generate(ids, do_sample=False, max_new_tokens=5, suppress_tokens=others, pad_token_id=0)
    assert made[0, 9:].tolist() == [2] * 5
