"""A tiny model from random weights to instructions that it follows."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from tenfold.align.rollout import respond
from tenfold.align.sft import sft_batches, sft_loss, sft_samples
from tenfold.align.toy_instructions import toy_instruct
from tenfold.align.verifiers import Task, toy_tasks, verify
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.text.messages import Sampling
from tenfold.text.tokenizer import Tokenizer, train_tokenizer

KINDS = ("copy", "upper", "last_letters", "sort_digits")
STEPS = 300


def accuracy(model: Decoder, tokenizer: Tokenizer, tasks: list[Task]) -> float:
    """Share of sampled responses that are right."""
    said = respond(model, tokenizer, [task.messages for task in tasks], 2, Sampling(max_tokens=24, seed=7))
    scores = verify(tasks, said)
    return sum(map(sum, scores)) / (2 * len(tasks))


@pytest.mark.slow
def test_fine_tuning_teaches_a_tiny_model_to_follow() -> None:
    """A minute on one core. Seen: sampled accuracy 0.63 on words that training never had; greedy 0.79."""
    items = list(itertools.islice(toy_instruct(99, KINDS), 300))
    tokenizer = train_tokenizer(
        [f"{item.messages[0].content} {item.answer.upper()}{item.answer}" for item in items], 300
    )
    cfg = DecoderConfig(tokenizer.vocab_size, 64, 3, 4, 2, 16, 160, max_len=128, rope_base=1e4)
    model = Decoder(cfg, torch.Generator().manual_seed(0))
    tasks, held_out = toy_tasks(1, 4000, KINDS), toy_tasks(2, 160, KINDS)
    rows = [{"prompt": task.messages[0].content, "completion": task.answer} for task in tasks]
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, betas=(0.9, 0.95), weight_decay=0.01)
    batches = sft_batches(sft_samples(rows, tokenizer, 128), 127, 16)
    for step, batch in enumerate(itertools.islice(batches, STEPS)):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1, (step + 1) / 20) * (1 - 0.9 * step / STEPS)
        loss, _ = sft_loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert accuracy(model, tokenizer, held_out) > 0.5
