"""From a dense model to one of few bits a weight: calibration, palettes, the adapter that recovers what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tenfold.align.samples import Sample
from tenfold.align.sft import sft_batches, sft_loss
from tenfold.compress.activations import Int8KVCache
from tenfold.compress.adapters import AdapterBank
from tenfold.compress.bit_budget import bits_by_sensitivity, sensitivities
from tenfold.compress.calibration import input_squares
from tenfold.compress.compressed_folder import load_palettized, save_palettized
from tenfold.compress.palettize import palettize
from tenfold.core.errors import UserError
from tenfold.core.mesh import device_type
from tenfold.core.run import Run
from tenfold.lm.decoder import Decoder
from tenfold.lm.kv_cache import KVCache
from tenfold.lm.loss import lm_loss, token_losses
from tenfold.lm.perplexity import perplexity
from tenfold.recipes.afm.chain import token_scores
from tenfold.recipes.afm.corpus import windows
from tenfold.recipes.afm.opening import RECOVERY
from tenfold.recipes.afm.post_config import Compression, LoRA
from tenfold.recipes.afm.tuning import fitting, tune_adapter
from tenfold.text.corpus import TokenWindows
from tenfold.text.tokenizer import Tokenizer

ROWS = 8  # of a batch that is only measured
DENSE_BITS = 16.0  # a weight of a model that is not compressed, as files hold it
ADAPTER_SEED = 7


@dataclass(frozen=True)
class Text:
    """Text of a compression.

    Args:
        train: token ids that the recovery adapter learns from; their start calibrates.
        held_out: text to measure on.
    """

    train: NDArray[np.integer]
    held_out: list[str]

    def calibration(self, tokens: int, length: int) -> Tensor:
        """Rows of length + 1 tokens from the start.

        Raises:
            UserError: less text than one row.
        """
        if len(self.train) <= length:
            raise UserError(f"text: got {len(self.train)} tokens to calibrate on, need {length + 1}; give more text")
        return windows(self.train[: max(tokens, length) + 1], length)


def compressed(
    settings: Compression, run: Run, name: str, folder: Path, model: Decoder, sample: Text, length: int
) -> Decoder:
    """The palettized model, made here or, where a killed process has saved it, read.

    Args:
        settings: bits, groups, target.
        run: takes what was chosen.
        name: of the stage in the run.
        folder: for the model.
        model: dense; it becomes the palettized one.
        sample: text to calibrate on.
        length: tokens a row.
    """
    if not run.done(name):
        rows = sample.calibration(settings.calibration, length).to(device_type())
        model = model.to(device_type()).eval()
        importance = input_importance(model, rows) if settings.importance else None
        bits, increases = None, {}
        if settings.palettes.target_bpw is not None:
            increases = sensitivities(model, settings.palettes, lambda other: loss_on(other, rows), importance)
            bits = bits_by_sensitivity(model, settings.palettes, increases)
        palettize(model, settings.palettes, bits=bits, importance=importance)
        save_palettized(model, folder)
        run.save_stage(name, {"bits": bits or {}, "increases": increases})
    return load_palettized(folder).to(device_type()).eval()


def recovered(
    settings: LoRA,
    run: Run,
    name: str,
    model: Decoder,
    sample: Text,
    seed: int,
    *,
    taught: Sequence[Sample] = (),
    bar: bool = True,
) -> AdapterBank:
    """A bank with an adapter that recovers what compression cost; the base stays as it is.

    It learns from the losses of pre-training and then, where there are conversations, of fine-tuning.

    Args:
        settings: of either training.
        run: takes log and checkpoints.
        name: of its trainings in the run.
        model: palettized.
        sample: running text.
        seed: of the adapter and the order.
        taught: conversations.
        bar: whether to show progress.
    """
    bank = AdapterBank(model)
    bank.add(RECOVERY, settings.rank, generator=torch.Generator().manual_seed(ADAPTER_SEED + seed))
    text = TokenWindows(sample.train, settings.length, settings.rows, seed)
    tune_adapter(settings, run, f"{name}-text", model, RECOVERY, lm_loss(), text, seed, bar)
    if taught:
        rows = fitting(taught, settings.length, name)
        chats = sft_batches(rows, settings.length, settings.rows, seed=seed)
        tune_adapter(settings, run, f"{name}-chats", model, RECOVERY, sft_loss, chats, seed, bar)
    return bank


def input_importance(model: Decoder, rows: Tensor) -> dict[str, Tensor]:
    """`input_squares` over rows of T + 1 tokens."""
    return input_squares(model, (part[:, :-1] for part in rows.split(ROWS)))


def loss_on(model: Decoder, rows: Tensor) -> float:
    """Nats a token over rows of T + 1 tokens."""
    return float(torch.cat([token_scores(model, part)[0] for part in rows.split(ROWS)]).mean())


def measured(model: Decoder, tokenizer: Tokenizer, texts: Sequence[str], window: int) -> dict[str, float]:
    """Loss in nats a token and perplexity of held-out text."""
    found = perplexity(model, tokenizer, texts, window)
    return {"loss": found.nats_per_token, "perplexity": found.perplexity}


@torch.no_grad()
def cached_loss(model: Decoder, rows: Tensor, cache: KVCache, piece: int = 64) -> float:
    """Nats a token over rows of T + 1 tokens that are read piece by piece, what came before lying in the cache.

    Args:
        model: in evaluation mode.
        rows: (B, T + 1).
        cache: empty, for B rows of T tokens.
        piece: tokens read at a time.
    """
    total, length = 0.0, rows.shape[1] - 1
    for start in range(0, length, piece):
        stop = min(start + piece, length)
        logits_BTV = model(rows[:, start:stop], cache=cache)
        total += float(token_losses(logits_BTV.flatten(0, 1), rows[:, start + 1 : stop + 1].flatten())[0].sum())
    return total / (len(rows) * length)


def cache_rows(model: Decoder, rows: Tensor) -> list[dict[str, Any]]:
    """The loss with keys and values kept in the model's type and in eight bits, and the memory of a token's."""
    cfg, length = model.cfg, rows.shape[1] - 1
    lines = []
    for words, kind, bits in (("32 bits", KVCache, 32.0), ("8 bits", Int8KVCache, 8 + 32 / cfg.head_dim)):
        loss = cached_loss(model, rows, kind(cfg, len(rows), length, torch.float32, rows.device))
        bytes_each = 2 * cfg.n_layers * cfg.n_kv_heads * cfg.head_dim * bits / 8
        lines.append({"keys and values": words, "loss": loss, "bytes a token": round(bytes_each)})
    return lines
