"""Packing of documents of any length into rows of one length; no token is lost, none is repeated.

A document is a run of integer segments. A segment of kind 0 is plain tokens and may be cut anywhere; any other kind
(the place-holder tokens of an image, say) is never cut and brings its payload along.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from tenfold.core.stream import Stream


@dataclass(frozen=True)
class Segment:
    """Tokens of one kind.

    Args:
        ids: token ids, one dimension, int64.
        kind: 0 for plain tokens; anything else is kept whole.
        payload: what the tokens stand for, as numbers, strings, tensors or lists and dicts of them.
    """

    ids: np.ndarray
    kind: int = 0
    payload: Any = None


Piece = list[Segment]  # what one row holds of one document


@dataclass(frozen=True)
class PackedRow:
    """One row of `length + 1` tokens: the first `length` are inputs, the last `length` their targets.

    Args:
        tokens: ids, int64.
        segment_ids: number of the document in the row, from 1; 0 is padding. int64.
        positions: place in the document's piece, from 0. int64.
        kinds: kind of the segment each token belongs to. int64.
        payloads: (first token, payload) of each segment with a payload, in order.
    """

    tokens: Tensor
    segment_ids: Tensor
    positions: Tensor
    kinds: Tensor
    payloads: tuple[tuple[int, Any], ...]


def collate_rows(rows: Sequence[PackedRow]) -> dict[str, Tensor]:
    """Stack rows without payloads: `tokens`, `segment_ids`, `positions`, each [rows, length + 1]."""
    return {name: torch.stack([getattr(row, name) for row in rows]) for name in ("tokens", "segment_ids", "positions")}


@dataclass(eq=False)
class _OpenRow:
    """A row that still takes documents; its size is kept, since first fit asks every open row for it."""

    pieces: list[Piece] = field(default_factory=list)
    size: int = 0
    payloads: int = 0

    def add(self, piece: Piece) -> None:
        self.pieces.append(piece)
        self.size += _size(piece)
        self.payloads += _payloads(piece)


class Packer:
    """Stream of packed rows over a stream of documents (arrays or lists of ids, or lists of `Segment`).

    Args:
        stream: the documents.
        length: tokens a model sees of a row, T; a row has T + 1.
        mode: "concat" joins the documents in order and cuts every T + 1 tokens. "first_fit" keeps a document that fits
            into a row whole: it goes to the first open row with room, longer ones are cut into rows first.
        open_rows: rows open at once in mode "first_fit"; one too many sends out the oldest, padded.
        document_mask: False makes a row one segment, with positions running through.
        separator: token put after every document, such as the end-of-text token.
        padding: token that fills rows that are sent out unfilled.
        most_payloads: segments with a payload that a row of mode "first_fit" takes; a document may have no more.
    """

    def __init__(
        self,
        stream: Stream,
        length: int,
        mode: Literal["concat", "first_fit"] = "concat",
        *,
        open_rows: int = 64,
        document_mask: bool = True,
        separator: int | None = None,
        padding: int = 0,
        most_payloads: int | None = None,
    ) -> None:
        if length < 1:
            raise ValueError(f"length: got {length}, need at least 1")
        if mode not in ("concat", "first_fit"):
            raise ValueError(f"mode: got {mode!r}, need 'concat' or 'first_fit'")
        if open_rows < 1:
            raise ValueError(f"open_rows: got {open_rows}, need at least 1")
        if most_payloads is not None and (most_payloads < 1 or mode != "first_fit"):
            raise ValueError(f"most_payloads: got {most_payloads}, need at least 1, and mode 'first_fit'")
        self.most_payloads = most_payloads
        self.stream = stream
        self.capacity = length + 1
        self.mode = mode
        self.open_rows = open_rows if mode == "first_fit" else 1
        self.document_mask = document_mask
        self.separator = separator
        self.padding = padding
        self._open: list[_OpenRow] = []
        self._ready: deque[list[Piece]] = deque()

    def __iter__(self) -> Iterator[PackedRow]:
        documents = iter(self.stream)
        while True:
            while self._ready:
                yield self._render(self._ready.popleft())
            try:
                document = next(documents)
            except StopIteration:
                if not self._open:
                    return
                self._ready.extend(row.pieces for row in self._open)
                self._open = []
            else:
                self._add(self._segments(document))

    def state_dict(self) -> dict[str, Any]:
        """The stream's state and the rows that are open or not yet handed out."""
        return {
            "stream": self.stream.state_dict(),
            "open": [_plain(row.pieces) for row in self._open],
            "ready": [_plain(row) for row in self._ready],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.stream.load_state_dict(state["stream"])
        rows = map(_row, state["open"])
        self._open = [_OpenRow(row, sum(map(_size, row)), sum(map(_payloads, row))) for row in rows]
        self._ready = deque(_row(row) for row in state["ready"])

    def _segments(self, document: Any) -> Piece:
        whole = isinstance(document, Sequence) and len(document) > 0 and isinstance(document[0], Segment)
        segments = list(document) if whole else [Segment(np.asarray(document, dtype=np.int64))]
        if self.separator is not None:
            segments.append(Segment(np.array([self.separator], dtype=np.int64)))
        for segment in segments:
            if segment.kind != 0 and len(segment.ids) > self.capacity:
                raise ValueError(
                    f"segment of kind {segment.kind}: got {len(segment.ids)} tokens that may not be cut, "
                    f"need at most {self.capacity} (length + 1)"
                )
        if self.most_payloads is not None and _payloads(segments) > self.most_payloads:
            raise ValueError(f"document: got {_payloads(segments)} payloads, need at most {self.most_payloads}")
        return [segment for segment in segments if len(segment.ids)]

    def _takes(self, row: _OpenRow, size: int, payloads: int) -> bool:
        return row.size + size <= self.capacity and (
            self.most_payloads is None or row.payloads + payloads <= self.most_payloads
        )

    def _add(self, rest: Piece) -> None:
        """Place a document; rows that are full or pushed out become ready, in that order."""
        while rest:
            if self.mode == "concat":
                # The last open row takes what it can; only a segment that may not be cut leaves a gap behind.
                row = self._open[-1] if self._open else self._new_row()
            else:
                need = min(_size(rest), self.capacity), _payloads(rest)
                row = next((row for row in self._open if self._takes(row, *need)), None) or self._new_row()
            piece, rest = _cut(rest, self.capacity - row.size)
            if piece:
                row.add(piece)
            if not piece or row.size == self.capacity:
                self._open.remove(row)
                self._ready.append(row.pieces)
            if len(self._open) > self.open_rows:
                self._ready.append(self._open.pop(0).pieces)

    def _new_row(self) -> _OpenRow:
        self._open.append(_OpenRow())
        return self._open[-1]

    def _render(self, row: list[Piece]) -> PackedRow:
        tokens = np.full(self.capacity, self.padding, dtype=np.int64)
        segment_ids, positions, kinds = (np.zeros(self.capacity, dtype=np.int64) for _ in range(3))
        payloads: list[tuple[int, Any]] = []
        at = 0
        for number, piece in enumerate(row, start=1):
            first = at
            for segment in piece:
                if segment.payload is not None:
                    payloads.append((at, segment.payload))
                tokens[at : at + len(segment.ids)] = segment.ids
                kinds[at : at + len(segment.ids)] = segment.kind
                at += len(segment.ids)
            segment_ids[first:at] = number if self.document_mask else 1
            positions[first:at] = np.arange(at - first) if self.document_mask else np.arange(first, at)
        return PackedRow(
            tokens=torch.from_numpy(tokens),
            segment_ids=torch.from_numpy(segment_ids),
            positions=torch.from_numpy(positions),
            kinds=torch.from_numpy(kinds),
            payloads=tuple(payloads),
        )


def _size(piece: Piece) -> int:
    return sum(len(segment.ids) for segment in piece)


def _payloads(piece: Sequence[Segment]) -> int:
    return sum(segment.payload is not None for segment in piece)


def _cut(piece: Piece, room: int) -> tuple[Piece, Piece]:
    """The longest head of at most `room` tokens, and the rest."""
    head: Piece = []
    for number, segment in enumerate(piece):
        if len(segment.ids) <= room:
            head.append(segment)
            room -= len(segment.ids)
            continue
        rest = piece[number + 1 :]
        if segment.kind != 0 or room == 0:
            return head, [segment, *rest]
        head.append(Segment(segment.ids[:room], 0, segment.payload))
        return head, [Segment(segment.ids[room:], 0), *rest]
    return head, []


def _plain(row: list[Piece]) -> list[list[dict[str, Any]]]:
    return [
        [{"ids": torch.from_numpy(s.ids.copy()), "kind": s.kind, "payload": s.payload} for s in piece] for piece in row
    ]


def _row(plain: list[list[dict[str, Any]]]) -> list[Piece]:
    return [[Segment(s["ids"].numpy(), s["kind"], s["payload"]) for s in piece] for piece in plain]
