"""The played part of `spag_loss` against trl's GRPO: by token, and by the mean token (its "sequence", GSPO)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from tenfold.align.logprobs import token_logprobs
from tenfold.align.samples import Sample
from tenfold.games.batches import TokenRow, collate_rows
from tenfold.games.losses import spag_loss
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.loss import IGNORED
from tenfold.text.tokenizer import train_tokenizer

ROWS = [
    TokenRow(Sample.of([5, 6, 7], [8, 9]), 1.0),
    TokenRow(Sample.of([10, 11], [12, 13, 14, 15]), -0.5),
    TokenRow(Sample.of([16], [17]), 0.25),
    TokenRow(Sample.of([18, 19, 20, 21], [22, 23, 24]), -1.0),
]


def as_trl(reference: Decoder, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Prompts padded on the left, completions on the right, and the reference's log-probability of every token."""
    asked = [[id for id, on in zip(row.sample.ids, row.sample.learned, strict=True) if not on] for row in ROWS]
    said = [[id for id, on in zip(row.sample.ids, row.sample.learned, strict=True) if on] for row in ROWS]
    wide, long = max(map(len, asked)), max(map(len, said))
    with torch.no_grad():
        known = token_logprobs(reference, batch)
    kept = batch["targets"] != IGNORED
    old = torch.zeros(len(ROWS), long)
    for row in range(len(ROWS)):
        old[row, : len(said[row])] = known[row][kept[row]]
    return {
        "prompt_ids": torch.tensor([[0] * (wide - len(ids)) + ids for ids in asked]),
        "prompt_mask": torch.tensor([[0] * (wide - len(ids)) + [1] * len(ids) for ids in asked]),
        "completion_ids": torch.tensor([ids + [0] * (long - len(ids)) for ids in said]),
        "completion_mask": torch.tensor([[1] * len(ids) + [0] * (long - len(ids)) for ids in said]),
        "old_per_token_logps": old,
        "ref_per_token_logps": old,
        "advantages": torch.tensor([row.reward for row in ROWS]),
    }


@pytest.mark.parametrize(
    ("ratio", "level", "beta"), [("token", "token", 0.0), ("token", "token", 0.3), ("mean", "sequence", 0.0)]
)
def test_clipped_loss(ratio: Literal["token", "mean"], level: str, beta: float, tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["what is the sum of one and two? the answer is three"] * 20, 330)
    tokenizer.save(tmp_path)
    cfg = DecoderConfig(tokenizer.vocab_size, 16, 2, 2, 1, 8, 24, max_len=96)
    policy, reference = (Decoder(cfg, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    policy.save_pretrained(tmp_path / "policy")
    batch = collate_rows(ROWS)
    settings: dict[str, Any] = {
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "output_dir": str(tmp_path / "out"),
    }
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(tmp_path / "policy", dtype=torch.float32),
        reward_funcs=lambda completions, **more: [0.0] * len(completions),
        args=GRPOConfig(
            num_generations=2,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=1,
            beta=beta,
            epsilon=0.02,
            loss_type="grpo",
            importance_sampling_level=level,
            use_bias_correction_kl=False,
            **settings,
        ),
        train_dataset=Dataset.from_list([{"prompt": "one"}] * 2),
        processing_class=AutoTokenizer.from_pretrained(tmp_path),
    )
    theirs = trainer._compute_loss(trainer.model, as_trl(reference, batch))
    mine, metrics = spag_loss(policy, batch, reference, beta=beta, clip=0.02, ratio=ratio, kl="k3")
    assert metrics["clip_frac"] > 0
    torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)
    mine.backward()
    theirs.backward()
    known = {name.removeprefix("model."): weight.grad for name, weight in trainer.model.named_parameters()}
    for name, weight in policy.named_parameters():
        torch.testing.assert_close(weight.grad, known[name], rtol=1e-4, atol=1e-5)
