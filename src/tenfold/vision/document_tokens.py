"""Documents of texts and pictures as token segments, cut into pieces that fit a row.

A document is a list of {"text": str} and {"image": reference}. A text with "loss": False is read and not learnt from; an image
with "tiled": False is shown whole alone.
"""

# Shape legend: T tokens of a row, k tokens of a crop

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from tenfold.core.errors import UserError
from tenfold.core.packing import Segment
from tenfold.text.tokenizer import Tokenizer

IMAGE = "<image>"
TEXT, PICTURE, SILENT = 0, 1, 2  # kinds of segments; a silent one is text that is not learnt from
IGNORED = -100

Document = Sequence[Mapping[str, Any]]


class SpecialIds(NamedTuple):
    """Ids of the control tokens of a row."""

    pad: int
    bos: int
    eos: int
    image: int


class Encoder(Protocol):
    """What is needed of a tokenizer: literal control tokens in a text stay text."""

    def encode(self, text: str) -> list[int]: ...


class Crops(Protocol):
    """What is needed of an image processor."""

    tokens: int | None

    def crops(self, picture: Any, *, tiled: bool = True) -> int: ...


def with_image_token(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer with the control token `<image>`, at the end of the vocabulary where there was none."""
    if tokenizer.backend.token_to_id(IMAGE) is None:
        import tokenizers

        tokenizer.backend.add_special_tokens([tokenizers.AddedToken(IMAGE, special=True, normalized=False)])
    return Tokenizer(
        tokenizer.backend,
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
        pad_token=tokenizer.pad_token,
        end_token=tokenizer.end_token,
        chat_template=tokenizer.chat_template,
    )


def special_ids(tokenizer: Any) -> SpecialIds:
    """The control tokens of a tokenizer; its pad token may stand in for a missing one of the end.

    Raises:
        UserError: no token for the begin or the end of a document, or for a picture.
    """
    image = getattr(tokenizer, "image_id", None)
    if image is None:
        backend = getattr(tokenizer, "backend", None)
        image = backend.token_to_id(IMAGE) if backend is not None else None
    found = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "image": image}
    if missing := [name for name, id in found.items() if id is None]:
        raise UserError(f"tokenizer: no token for {', '.join(missing)}; see with_image_token")
    pad = tokenizer.pad_id if tokenizer.pad_id is not None else tokenizer.eos_id
    return SpecialIds(pad, found["bos"], found["eos"], found["image"])


def encode_document(
    document: Document, tokenizer: Encoder, special: SpecialIds, processor: Crops, tokens: int | None = None
) -> list[Segment]:
    """Segments of a document between its two control tokens, which are not among them.

    Args:
        document: texts and pictures.
        processor: says how many crops a picture has.
        tokens: k; None takes the processor's.
    Raises:
        UserError: an empty document, a segment that is neither text nor picture.
    """
    if not document:
        raise UserError("document: got no segments, need at least one text or picture")
    tokens = processor.tokens if tokens is None else tokens
    found: list[Segment] = []
    for number, segment in enumerate(document):
        if "text" in segment:
            ids = np.array(tokenizer.encode(segment["text"]), dtype=np.int64)
            if len(ids):
                found.append(Segment(ids, TEXT if segment.get("loss", True) else SILENT))
        elif "image" in segment:
            if tokens is None:
                raise ValueError("tokens: got None, need the number of tokens that the connector makes of a crop")
            tiled = bool(segment.get("tiled", True))
            count = processor.crops(segment["image"], tiled=tiled)
            payload = {"ref": segment["image"], "tiled": tiled}
            found.append(Segment(np.full(count * tokens, special.image), PICTURE, payload))
        else:
            raise UserError(f'document: segment {number}: got {sorted(segment)}, need "text" or "image"')
    return found


def pieces(segments: Sequence[Segment], special: SpecialIds, length: int, max_images: int) -> list[list[Segment]]:
    """A document with its control tokens, cut where it exceeds T tokens or `max_images` pictures.

    Every piece begins with <bos>, the last one ends with <eos>; cuts fall between segments or text tokens.

    Raises:
        UserError: a picture, or a text that is not learnt from, that does not fit into a row.
    """
    bos, eos = Segment(np.array([special.bos]), SILENT), Segment(np.array([special.eos]))
    found: list[list[Segment]] = [[bos]]
    room, images = length - 1, 0
    for segment in [*segments, eos]:
        ids = segment.ids
        if segment.kind != TEXT and len(ids) > length - 1:
            what = "picture" if segment.kind == PICTURE else "text that is not learnt from"
            raise UserError(
                f"document: a {what} has {len(ids)} tokens, a row takes {length - 1} beside <bos>; take longer rows"
            )
        while len(ids):
            full = room == 0 or (segment.kind != TEXT and len(ids) > room)
            if full or (segment.kind == PICTURE and images == max_images):
                found.append([bos])
                room, images = length - 1, 0
            taken = len(ids) if segment.kind != TEXT else min(len(ids), room)
            found[-1].append(Segment(ids[:taken], segment.kind, segment.payload))
            ids, room = ids[taken:], room - taken
            images += segment.kind == PICTURE
    return found
