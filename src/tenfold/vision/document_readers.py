"""Documents from the field's files: WebDataset shards, OBELICS, MMC4, LLaVA conversations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tenfold.core.config import read_json
from tenfold.core.errors import UserError
from tenfold.core.packed import unpacked
from tenfold.lm.tasks import read_lines
from tenfold.vision.image_text import open_image_text
from tenfold.vision.picture_refs import span_ref

Segments = list[dict[str, Any]]


def read_captions(path: str | Path, template: str = "A photo of {caption}") -> list[Segments]:
    """A document of picture and caption for each pair of a folder or of WebDataset shards (see `open_image_text`)."""
    pairs = open_image_text(path, 1)
    return [
        [{"image": span_ref(span)}, {"text": template.format(caption=caption)}]
        for span, caption in zip(pairs.pictures, pairs.captions, strict=True)
    ]


def read_obelics(path: str | Path, images: str | Path = ".") -> list[Segments]:
    """OBELICS: JSON Lines of {"images": […], "texts": […]}, of one length, one of both null in every slot.

    Args:
        images: the folder that the names in "images" are below.
    Raises:
        UserError: file:line and slot, where both or none are null, or the lengths differ.
    """
    found = []
    for line, row in read_lines(Path(path)):
        where = f"{path}:{line}"
        pictures, texts = _lists(row, ("images", "texts"), where)
        if len(pictures) != len(texts):
            raise UserError(f"{where}: images, texts: got {len(pictures)} and {len(texts)}, need one length")
        document: Segments = []
        for slot, (picture, text) in enumerate(zip(pictures, texts, strict=True)):
            if (picture is None) == (text is None):
                state = "both null" if picture is None else "both set"
                raise UserError(f"{where}: slot {slot}: images and texts are {state}, need one of them")
            document.append(
                {"text": _text(text, where)} if picture is None else {"image": _file(picture, images, where)}
            )
        found.append(_filled(document, where))
    return found


def read_mmc4(path: str | Path, images: str | Path = ".") -> list[Segments]:
    """MMC4: JSON Lines of {"text_list", "image_info": [{"image_name", "matched_text_index"}]}; a picture comes before its text."""
    found = []
    for line, row in read_lines(Path(path)):
        where = f"{path}:{line}"
        texts, infos = _lists(row, ("text_list", "image_info"), where)
        before: dict[int, list[str]] = {}
        for info in infos:
            index = info.get("matched_text_index") if isinstance(info, Mapping) else None
            if not isinstance(index, int) or not 0 <= index < len(texts):
                raise UserError(f"{where}: matched_text_index: got {index!r:.40}, need 0..{len(texts) - 1}")
            before.setdefault(index, []).append(_file(info.get("image_name"), images, where))
        document: Segments = []
        for index, text in enumerate(texts):
            document += [{"image": picture} for picture in before.get(index, [])]
            document.append({"text": _text(text, where) + ("" if index == len(texts) - 1 else " ")})
        found.append(_filled(document, where))
    return found


def read_llava(path: str | Path, images: str | Path = ".") -> list[Segments]:
    """LLaVA: a JSON list of {"image": name or names, "conversations": [{"from", "value"}]} with "<image>" marks.

    What the assistant ("gpt") says is learnt from, the rest is read alone.

    Raises:
        UserError: an entry whose marks and pictures differ in number, named.
    """
    rows = read_json(Path(path))
    if not isinstance(rows, list):
        raise UserError(f"{path}: got {type(rows).__name__}, need a list of conversations")
    found = []
    for number, row in enumerate(rows):
        where = f"{path}: entry {number}"
        (turns,) = _lists(row, ("conversations",), where)
        if not all(isinstance(turn, Mapping) for turn in turns):
            raise UserError(f"{where}: conversations: need objects with from and value")
        named = row.get("image") or []
        if not isinstance(named, str | list):
            raise UserError(f"{where}: image: got {type(named).__name__}, need a name or a list of names")
        waiting = [_file(name, images, where) for name in ([named] if isinstance(named, str) else named)]
        marks = sum(str(turn.get("value", "")).count("<image>") for turn in turns if turn.get("from") == "human")
        if marks != len(waiting):
            raise UserError(f"{where}: got {marks} <image> marks and {len(waiting)} pictures, need as many")
        document: Segments = []
        for turn in turns:
            human = turn.get("from") == "human"
            value = _text(turn.get("value"), where)
            for part_number, part in enumerate(value.split("<image>") if human else [value]):
                if part_number:
                    document.append({"image": waiting.pop(0)})
                part = part.strip("\n") if human else part
                if part:
                    text = f"Question: {part} Answer:" if human else f" {part}\n"
                    document.append({"text": text, "loss": not human})
        found.append(_filled(document, where))
    return found


def read_texts(path: str | Path) -> list[Segments]:
    """A document of one text for every line of a file that is not empty, plain or .gz."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"data not found: {path}")
    try:
        lines = unpacked(path).decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as fault:
        raise UserError(f"{path}: cannot be read as text ({fault}); copy it again") from fault
    return [[{"text": line}] for line in lines if line.strip()]


def _lists(row: Any, names: Sequence[str], where: str) -> list[list[Any]]:
    found = []
    for name in names:
        value = row.get(name) if isinstance(row, Mapping) else None
        if not isinstance(value, list):
            raise UserError(f"{where}: {name}: got {type(value).__name__}, need a list")
        found.append(value)
    return found


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: got {json.dumps(value, default=str)[:60]}, need text")
    return value


def _file(name: Any, folder: str | Path, where: str) -> str:
    """A picture's path; a name may not lead out of the folder."""
    if not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts:
        raise UserError(f"{where}: picture: got {name!r:.80}, need a name below the folder of pictures")
    return str(Path(folder) / name)


def _filled(document: Segments, where: str) -> Segments:
    if not document:
        raise UserError(f"{where}: got an empty document, need at least one text or picture")
    return document
