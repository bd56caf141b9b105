"""Perplexity against the sliding-window loop around a model of transformers, which predicts the whole window at once."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import tokenizers
import torch
import transformers

from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.perplexity import perplexity

TEXTS = ["The cat sat on the mat. " * 9, "é", "One\n\ntwo, three " * 5]


@pytest.fixture(scope="module")
def tokenizer() -> transformers.PreTrainedTokenizerFast:
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>"], initial_alphabet=alphabet)
    backend.train_from_iterator(TEXTS, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>")


@pytest.mark.parametrize(("window", "stride"), [(32, 32), (32, 10), (8, 1)])
def test_same_as_the_loop_around_transformers(
    tokenizer: transformers.PreTrainedTokenizerFast, tmp_path: Path, window: int, stride: int
) -> None:
    cfg = DecoderConfig(
        vocab_size=len(tokenizer), dim=24, n_layers=2, n_heads=3, n_kv_heads=1, head_dim=8, ffn_dim=32, max_len=32
    )
    ours = Decoder(cfg, torch.Generator().manual_seed(1))
    ours.save_pretrained(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    nats, tokens = 0.0, 0
    for text in TEXTS:
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer.encode(text, add_special_tokens=False)]])
        seen = 1  # the prefix is given
        while seen < ids.shape[1]:
            end = min(window + 1 if seen == 1 else seen + stride, ids.shape[1])
            part = ids[:, max(0, end - window - 1) : end]
            labels = part.clone()
            labels[:, : part.shape[1] - (end - seen)] = -100
            with torch.no_grad():
                nats += float(theirs(part, labels=labels).loss.double()) * (end - seen)
            tokens, seen = tokens + end - seen, end
    for model in (ours, theirs):
        found = perplexity(model, tokenizer, TEXTS, window, stride)
        assert found.tokens == tokens and found.nats == pytest.approx(nats, rel=1e-5)
        assert found.bits_per_byte == pytest.approx(
            nats / math.log(2) / sum(len(text.encode()) for text in TEXTS), rel=1e-5
        )
