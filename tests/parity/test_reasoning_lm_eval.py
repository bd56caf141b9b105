"""Reasoning tasks from local files: our scores against lm-evaluation-harness 0.4 on the same model."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

from tenfold.games.reasoning import evaluate_reasoning, write_tasks
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.text.tokenizer import train_tokenizer

TASKS = ("bbh_navigate", "bbh_snarks", "piqa", "winogrande")


def test_both_backends_agree(data_dir: Path, tmp_path: Path) -> None:
    folder = write_tasks(TASKS, tmp_path)
    tokenizer = train_tokenizer([(folder / "piqa.jsonl").read_text()[:50_000]], 400)
    cfg = DecoderConfig(tokenizer.vocab_size, 16, 1, 2, 1, 8, 24, max_len=2048)
    model = Decoder(cfg, torch.Generator().manual_seed(0)).double()
    ours, theirs = (
        evaluate_reasoning(model, tokenizer, TASKS, name, 50, data=folder) for name in ("builtin", "lm_eval")
    )  # type: ignore[arg-type]
    assert tuple(ours) == TASKS
    for task in TASKS:
        for figure, value in theirs[task].items():
            assert value is None or ours[task][figure] == pytest.approx(value, abs=1e-12)
    assert theirs["piqa"]["acc_norm"] is not None
