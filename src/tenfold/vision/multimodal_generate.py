"""Answers to documents of texts and pictures: every picture is encoded once, keys and values are kept."""

# Shape legend: B prompts, S tokens of a prompt, D width of the decoder

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tenfold.core.errors import UserError
from tenfold.lm.generate import generate as continue_prompts
from tenfold.vision.document_tokens import PICTURE, Document, encode_document, special_ids

if TYPE_CHECKING:
    from tenfold.vision.multimodal import MultimodalLM


@dataclass(frozen=True)
class Answer:
    """What a model said.

    Attributes:
        text: without the stop string that ended it.
        finished: a stop string or the end token ended it, not the limit.
        prompt: tokens read.
        tokens: ids made.
    """

    text: str
    finished: bool
    prompt: int
    tokens: tuple[int, ...]


@torch.inference_mode()
def generate(
    model: MultimodalLM,
    documents: Sequence[Document],
    max_new: int = 64,
    stop: Sequence[str] = (),
    temperature: float = 0.0,
    *,
    top_p: float | None = None,
    seed: int | None = None,
    hires_last: int | None = None,
    batch: int = 32,
) -> list[Answer]:
    """Continue documents.

    Args:
        model: with tokenizer and processor.
        documents: prompts; <bos> is put before each.
        max_new: most tokens to add.
        stop: strings that end an answer, looked for in its text.
        temperature: 0 is greedy.
        top_p, seed: as in `lm.generate.generate`.
        hires_last: only so many last pictures of a document are cut into tiles, the others are shown whole (MM1, Section 4.2).
        batch: prompts at a time.
    Returns:
        an answer a document.
    Raises:
        UserError: a model without tokenizer, a prompt longer than the model reads, pictures that cannot be read.
    """
    if model.tokenizer is None or model.processor is None:
        raise UserError("model: it has no tokenizer or image processor; open a model folder")
    tokenizer = model.tokenizer
    special = special_ids(tokenizer)
    pictures: dict[Any, Tensor] = {}
    found: list[Answer] = []
    for start in range(0, len(documents), batch):
        group = [shown_whole(document, hires_last) for document in documents[start : start + batch]]
        prompts = prompt_vectors(model, group, pictures)
        longest = max(map(len, prompts))
        if longest + max_new > model.lm.cfg.max_len:
            raise UserError(
                f"prompt: got {longest} tokens and {max_new} to add, the model reads at most {model.lm.cfg.max_len}; "
                "shorten it, leave out pictures, or ask for less"
            )

        def ended(ids: list[int]) -> bool:
            text = tokenizer.decode(ids, skip_special_tokens=True)
            return any(mark in text for mark in stop)

        made = continue_prompts(
            model.lm,
            embeds=prompts,
            max_new_tokens=max_new,
            temperature=temperature,
            top_p=top_p,
            stop=tuple({special.eos, getattr(tokenizer, "end_id", None) or special.eos}),
            until=ended if stop else None,
            seed=seed,
        )
        for prompt, ids, finished in zip(prompts, made.ids, made.finished, strict=True):
            text = cut_at(tokenizer.decode(ids, skip_special_tokens=True), stop)
            found.append(Answer(text, finished, len(prompt), tuple(ids)))
    return found


def prompt_vectors(
    model: MultimodalLM, documents: Sequence[Document], pictures: dict[Any, Tensor] | None = None
) -> list[Tensor]:
    """Input vectors (S, D) of each document, <bos> before it; every picture is encoded once.

    Args:
        pictures: vectors by picture, kept from earlier calls.
    """
    assert model.processor is not None
    special = special_ids(model.tokenizer)
    weight = model.lm.embed_tokens.weight
    pictures = {} if pictures is None else pictures
    encoded = [
        encode_document(document, model.tokenizer, special, model.processor, _tokens(model)) for document in documents
    ]
    shown = {
        _key(segment.payload): segment.payload
        for segments in encoded
        for segment in segments
        if segment.kind == PICTURE
    }
    fresh = {key: payload for key, payload in shown.items() if key not in pictures}
    if fresh:
        crops = [model.processor(payload["ref"], tiled=payload["tiled"]) for payload in fresh.values()]
        training = model.training
        model.eval()
        vectors = model.picture_tokens(torch.cat(crops).to(weight.device, weight.dtype))
        model.train(training)
        for key, part in zip(fresh, vectors.split([len(each) for each in crops]), strict=True):
            pictures[key] = part.flatten(0, 1)
    found = []
    for segments in encoded:
        parts = [weight[special.bos].unsqueeze(0)]
        for segment in segments:
            if segment.kind == PICTURE:
                parts.append(pictures[_key(segment.payload)])
            else:
                parts.append(weight[torch.from_numpy(segment.ids).to(weight.device)])
        found.append(torch.cat(parts))
    return found


def shown_whole(document: Document, hires_last: int | None) -> Document:
    """The document with all but its last `hires_last` pictures shown whole; None leaves it."""
    if hires_last is None:
        return document
    images = [i for i, segment in enumerate(document) if "image" in segment]
    whole = set(images[: max(0, len(images) - hires_last)])
    return [{**segment, "tiled": False} if i in whole else segment for i, segment in enumerate(document)]


def fit_demos(
    demos: Sequence[Document], query: Document, room: int, size: Any, *, where: str = "prompt"
) -> list[Mapping[str, Any]]:
    """Demonstrations and a query as one document, without the oldest demonstrations where they exceed `room` tokens.

    Args:
        size: tokens of a document.
    """
    kept = list(demos)
    while kept and sum(map(size, kept)) + size(query) > room:
        kept.pop(0)
    if len(kept) < len(demos):
        warnings.warn(
            f"{where}: {len(demos) - len(kept)} oldest demonstrations left out, they exceed {room} tokens", stacklevel=2
        )
    return [segment for document in [*kept, query] for segment in document]


def cut_at(text: str, stop: Sequence[str]) -> str:
    """The text before the first stop string in it."""
    ends = [text.index(mark) for mark in stop if mark in text]
    return text[: min(ends)] if ends else text


def _tokens(model: MultimodalLM) -> int | None:
    tokens = getattr(model.connector, "tokens", None)
    return int(tokens) if tokens is not None else None


def _key(payload: Mapping[str, Any]) -> Any:
    ref = payload["ref"]
    plain = ref if isinstance(ref, str | bytes) else repr(ref) if isinstance(ref, Mapping) else id(ref)
    return plain, payload["tiled"]
