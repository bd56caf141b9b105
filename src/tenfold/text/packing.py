"""Packed rows of text: token documents of any length in, batches for the language-model loss out."""

# Shape legend: B batch, T tokens a model sees of a row

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from tenfold.core.packing import PackedRow, Packer, collate_rows
from tenfold.core.stream import ArrayStream, Batcher, Stream


def collate_text(rows: Sequence[PackedRow]) -> dict[str, Tensor]:
    """A batch for `lm_loss` of B packed rows of T + 1 tokens.

    Returns:
        int64 (B, T) each: "ids"; "targets", the token that follows in the same document, -100 where none does;
        "segments", the document's number in its row from 1, 0 at padding; "positions", from 0 in every document.
    Raises:
        ValueError: rows with payloads, which are no text.
    """
    if any(row.payloads for row in rows):
        raise ValueError("rows: got segments with payloads, need plain token ids")
    columns = collate_rows(rows)
    segments = columns["segment_ids"]
    follows = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] != 0)
    return {
        "ids": columns["tokens"][:, :-1],
        "targets": torch.where(follows, columns["tokens"][:, 1:], -100),
        "segments": segments[:, :-1],
        "positions": columns["positions"][:, :-1],
    }


def packed_batches(
    documents: Stream | Sequence[Sequence[int]],
    length: int,
    batch_size: int,
    *,
    seed: int = 0,
    mode: Literal["concat", "first_fit"] = "concat",
    document_mask: bool = True,
    separator: int | None = None,
    rank: int = 0,
    world: int = 1,
) -> Batcher:
    """A stream of batches of packed documents that resumes exactly (`state_dict`, `load_state_dict`).

    Args:
        documents: the token ids of each, which come endlessly in the order of (seed, epoch); or a stream of such.
        length: T.
        batch_size: B, rows of one batch over all ranks together.
        seed: of the order; a stream has its own.
        mode: "concat" cuts the joined documents into rows; "first_fit" keeps whole what fits (see `Packer`).
        document_mask: attention stays inside a document and positions restart with it.
        separator: token put after every document, such as the end-of-text token.
        rank, world: this process takes the `rank`-th of `world` equal parts of each batch.
    Returns:
        the stream; what a batch holds is said at `collate_text`.
    """
    stream = documents if isinstance(documents, Stream) else ArrayStream(documents, seed=seed)
    packer = Packer(stream, length, mode, document_mask=document_mask, separator=separator)
    return Batcher(packer, batch_size, collate=collate_text, rank=rank, world=world)
