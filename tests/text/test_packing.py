"""Packed rows of text carry every document's loss and none of its neighbours'."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from tenfold.core.packing import PackedRow, Packer, Segment
from tenfold.core.stream import ArrayStream, Batcher
from tenfold.lm.decoder import Decoder, DecoderConfig
from tenfold.lm.loss import lm_loss
from tenfold.nn.moe import MoEConfig
from tenfold.text.packing import collate_text, packed_batches

CFG = DecoderConfig(40, 16, 2, 2, 1, 8, 24, max_len=16)


def documents(count: int, longest: int, seed: int = 0) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [generator.integers(1, 40, size=generator.integers(2, longest + 1)).tolist() for _ in range(count)]


def rows(texts: list[list[int]], length: int, **options: Any) -> list[PackedRow]:
    return list(Packer(ArrayStream(texts, shuffle=False, epochs=1), length, **options))


def test_a_row_by_hand() -> None:
    batch = collate_text(rows([[5, 6, 7], [8, 9]], 7, mode="first_fit", separator=2))
    assert batch["ids"].tolist() == [[5, 6, 7, 2, 8, 9, 2]]
    assert batch["targets"].tolist() == [[6, 7, 2, -100, 9, 2, -100]]
    assert batch["segments"].tolist() == [[1, 1, 1, 1, 2, 2, 2]]
    assert batch["positions"].tolist() == [[0, 1, 2, 3, 0, 1, 2]]
    padded = collate_text(rows([[5, 6]], 4))
    assert padded["targets"].tolist() == [[6, -100, -100, -100]]
    assert padded["segments"].tolist() == [[1, 1, 0, 0]]
    joined = collate_text(rows([[5, 6], [7, 8, 9]], 4, document_mask=False))
    assert joined["targets"].tolist() == [[6, 7, 8, 9]]
    assert joined["positions"].tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("moe", [None, MoEConfig(16, 12, num_experts=4, lb_weight=0.0, dropless=True)])
def test_packed_loss_is_the_mean_over_the_documents(moe: MoEConfig | None) -> None:
    model = Decoder(CFG if moe is None else DecoderConfig(40, 16, 2, 2, 1, 8, 24, max_len=16, moe=moe)).double()
    texts = documents(12, 10)
    packed, metrics = lm_loss()(model, collate_text(rows(texts, 14, mode="first_fit")))
    total, targets = torch.zeros((), dtype=torch.float64), 0
    for text in texts:
        row = torch.tensor([text])
        loss, alone = lm_loss()(model, {"ids": row[:, :-1], "targets": row[:, 1:]})
        total, targets = total + loss * alone["weight"], targets + int(alone["weight"])
    assert int(metrics["weight"]) == targets == sum(len(text) - 1 for text in texts)
    torch.testing.assert_close(packed, total / targets, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mode", ["concat", "first_fit"])
@pytest.mark.parametrize("stop", [0, 1, 5, 23])
def test_resume_is_exact(mode: Any, stop: int) -> None:
    def stream(rank: int = 0, world: int = 1) -> Batcher:
        options = {"seed": 3, "mode": mode, "separator": 0, "rank": rank, "world": world}
        return packed_batches(documents(30, 25), 12, 4, **options)

    whole = list(itertools.islice(stream(), stop + 20))
    first = stream()
    for _ in itertools.islice(first, stop):
        pass
    resumed = stream()
    resumed.load_state_dict(first.state_dict())
    for expected, batch in zip(whole[stop:], itertools.islice(resumed, 20), strict=True):
        assert all(torch.equal(expected[name], batch[name]) for name in ("ids", "targets", "segments", "positions"))
    parts = [list(itertools.islice(stream(rank, 2), 5)) for rank in range(2)]
    for expected, *shares in zip(whole[:5], *parts, strict=True):
        assert torch.equal(torch.cat([share["ids"] for share in shares]), expected["ids"])


def test_a_stream_of_documents_is_taken_as_it_is() -> None:
    texts = documents(5, 8)
    packed = packed_batches(ArrayStream(texts, shuffle=False, epochs=1), 6, 1)
    seen = torch.cat([batch["ids"][batch["segments"] > 0] for batch in packed]).tolist()
    joined = [token for text in texts for token in text]
    assert seen == [token for i, token in enumerate(joined) if i % 7 < 6]  # every seventh is a target alone


def test_payloads_are_refused() -> None:
    image = [Segment(np.array([1, 1]), kind=1, payload=3.0)]
    with pytest.raises(ValueError, match="rows: got segments with payloads"):
        collate_text(rows([image], 4))  # type: ignore[list-item]
