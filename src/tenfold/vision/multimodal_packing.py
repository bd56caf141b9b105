"""Packed rows of texts and pictures: documents in, batches for a multimodal model out, and back."""

# Shape legend: B rows, T tokens of a row, C crops, k tokens of a crop, S side of a crop

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import register_dataclass

from tenfold.core.packing import PackedRow, Packer, Segment
from tenfold.core.stream import Batcher, Stream
from tenfold.vision.document_tokens import (
    IGNORED,
    PICTURE,
    SILENT,
    Document,
    SpecialIds,
    encode_document,
    pieces,
    special_ids,
)
from tenfold.vision.image_processor import ImageProcessor


@dataclass
class PackedBatch:
    """Rows of packed documents.

    Attributes:
        input_ids: int64 (B, T).
        labels: int64 (B, T), the token that follows in the same document; -100 where that is a picture's, padding, <bos>, or
            text that is not learnt from.
        segment_ids: int64 (B, T), number of the document in its row from 1; 0 is padding.
        position_ids: int64 (B, T), from 0 in every document.
        pixel_values: (C, 3, S, S), the crops of all pictures in the order of their places.
        image_pos: int64 (C, k, 2), row and column of every token of a crop.
    """

    input_ids: Tensor
    labels: Tensor
    segment_ids: Tensor
    position_ids: Tensor
    pixel_values: Tensor
    image_pos: Tensor


register_dataclass(
    PackedBatch,
    field_names=["input_ids", "labels", "segment_ids", "position_ids", "pixel_values", "image_pos"],
    drop_field_names=[],
)


class PieceStream:
    """The pieces of a stream of documents, one at a time; those of a cut document wait in the state."""

    def __init__(self, stream: Stream, cut: Callable[[Any], list[list[Segment]]]) -> None:
        self.stream, self.cut = stream, cut
        self._waiting: list[list[Segment]] = []

    def __iter__(self) -> Iterator[list[Segment]]:
        documents = iter(self.stream)
        while True:
            while self._waiting:
                yield self._waiting.pop(0)
            try:
                document = next(documents)
            except StopIteration:
                return
            self._waiting = self.cut(document)

    def state_dict(self) -> dict[str, Any]:
        waiting = [
            [{"ids": torch.from_numpy(s.ids.copy()), "kind": s.kind, "payload": s.payload} for s in piece]
            for piece in self._waiting
        ]
        return {"stream": self.stream.state_dict(), "waiting": waiting}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.stream.load_state_dict(state["stream"])
        self._waiting = [
            [Segment(s["ids"].numpy(), s["kind"], s["payload"]) for s in piece] for piece in state["waiting"]
        ]


class _Once:
    """Documents handed out once, in order."""

    def __init__(self, documents: Iterable[Document]) -> None:
        self.documents = iter(documents)

    def __iter__(self) -> Iterator[Document]:
        return self.documents

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        raise ValueError("documents: an iterator has no place to go back to; give a stream")


def packed_stream(
    documents: Stream,
    tokenizer: Any,
    processor: ImageProcessor,
    length: int,
    max_images: int = 16,
    buffer: int = 64,
    *,
    tokens: int | None = None,
    cross_doc: bool = False,
) -> Packer:
    """A resumable stream of packed rows; `collate_rows` makes batches of them.

    Arguments as in `pack_documents`; the state holds open rows, so pictures are to be plain data: paths or descriptions.
    """
    if length < 2 or max_images < 1:
        raise ValueError(f"length, max_images: got {length}, {max_images}, need at least 2 and 1")
    special = special_ids(tokenizer)

    def cut(document: Document) -> list[list[Segment]]:
        segments = encode_document(document, tokenizer, special, processor, tokens)
        return pieces(segments, special, length, max_images)

    return Packer(
        PieceStream(documents, cut),
        length - 1,
        "first_fit",
        open_rows=buffer,
        document_mask=not cross_doc,
        padding=special.pad,
        most_payloads=max_images,
    )


def pack_documents(
    docs: Stream | Iterable[Document],
    tokenizer: Any,
    processor: ImageProcessor,
    T: int,
    max_images: int = 16,
    buffer: int = 64,
    *,
    tokens: int | None = None,
    batch_size: int = 1,
    cross_doc: bool = False,
) -> Iterator[PackedBatch]:
    """Batches of packed documents.

    Args:
        docs: lists of {"text": str} and {"image": picture}; a document too long for a row is cut, never inside a picture.
        tokenizer: with ids for begin, end and `<image>` (see `with_image_token`).
        processor: of the pictures.
        T: tokens of a row.
        max_images: pictures of a row (each with all its crops).
        buffer: rows open at once; a document goes to the first with room.
        tokens: k; None takes the processor's.
        batch_size: B; the last batch may be short.
        cross_doc: attention runs through the row's documents, positions too.
    Raises:
        UserError: an empty document, a picture that cannot be read or does not fit into T tokens.
    Source: MM1, Appendix A (packing); block-diagonal attention is our choice.
    """
    stream = docs if isinstance(docs, Stream) else _Once(docs)
    rows = packed_stream(stream, tokenizer, processor, T, max_images, buffer, tokens=tokens, cross_doc=cross_doc)
    collate = Collate(special_ids(tokenizer), processor, tokens)
    return iter(Batcher(rows, batch_size, collate=collate))


@dataclass(frozen=True)
class Collate:
    """Makes a batch of packed rows; pictures are read here.

    Args:
        special: ids of the control tokens.
        processor: of the pictures.
        tokens: k; None takes the processor's.
    """

    special: SpecialIds
    processor: ImageProcessor
    tokens: int | None = None

    def __call__(self, rows: Sequence[PackedRow]) -> PackedBatch:
        ids, segments, positions, kinds = (
            torch.stack([getattr(row, name) for row in rows])
            for name in ("tokens", "segment_ids", "positions", "kinds")
        )
        crops, places = [], []
        k = self.tokens or self.processor.tokens or 1
        for number, row in enumerate(rows):
            for first, payload in row.payloads:
                pixels = self.processor(payload["ref"], tiled=payload["tiled"])
                columns = torch.arange(first, first + len(pixels) * k)
                places.append(torch.stack([torch.full_like(columns, number), columns], -1).view(len(pixels), k, 2))
                crops.append(pixels)
        size = self.processor.size
        return PackedBatch(
            ids,
            labels_of(ids, segments, kinds, self.special),
            segments,
            positions,
            torch.cat(crops) if crops else torch.zeros(0, 3, size, size),
            torch.cat(places) if places else torch.zeros(0, k, 2, dtype=torch.int64),
        )


def labels_of(ids: Tensor, segments: Tensor, kinds: Tensor, special: SpecialIds) -> Tensor:
    """The next token of every place, -100 where it is not learnt from; all (B, T)."""
    labels = torch.full_like(ids, IGNORED)
    told = ids[:, 1:]
    learnt = (kinds[:, 1:] != PICTURE) & (kinds[:, 1:] != SILENT) & (segments[:, 1:] != 0)
    learnt &= (segments[:, 1:] == segments[:, :-1]) & (told != special.bos)
    labels[:, :-1] = torch.where(learnt, told, labels[:, :-1])
    return labels


def unpack(batch: PackedBatch, tokenizer: Any = None) -> list[list[dict[str, Any]]]:
    """The documents (or pieces of them) of a batch, in the order of rows and places.

    Args:
        batch: packed rows without attention across documents.
        tokenizer: gives texts back and leaves the control tokens out; None gives {"ids": tokens}, control tokens included.
    Returns:
        a list of segments a document: {"text": str} or {"ids": list of int}, and {"image": crop (3, S, S)} for each crop.
    """
    starts = {(int(r), int(c)): i for i, (r, c) in enumerate(batch.image_pos[:, 0].tolist())}
    inside = {(int(r), int(c)) for r, c in batch.image_pos.reshape(-1, 2).tolist()}
    control = set() if tokenizer is None else set(special_ids(tokenizer)) | {tokenizer.bos_id, tokenizer.eos_id}
    found: list[list[dict[str, Any]]] = []
    for row, (ids, segments) in enumerate(zip(batch.input_ids.tolist(), batch.segment_ids.tolist(), strict=True)):
        for number in dict.fromkeys(segment for segment in segments if segment):
            document: list[dict[str, Any]] = []
            for column in (c for c, segment in enumerate(segments) if segment == number):
                if (row, column) in starts:
                    document.append({"image": batch.pixel_values[starts[row, column]]})
                elif (row, column) not in inside and ids[column] not in control:
                    if not document or "ids" not in document[-1]:
                        document.append({"ids": []})
                    document[-1]["ids"].append(ids[column])
            found.append(document)
    if tokenizer is not None:
        found = [[_told(segment, tokenizer) for segment in document] for document in found]
    return found


def _told(segment: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    return {"text": tokenizer.decode(segment["ids"])} if "ids" in segment else segment
