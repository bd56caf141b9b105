"""Pictures with captions of the user's own: a folder, a folder with metadata.jsonl, or WebDataset shards."""

# Shape legend: S side of a picture

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from tenfold.core.errors import UserError
from tenfold.vision.images import SUFFIXES, decode_square
from tenfold.vision.rows import read_rows
from tenfold.vision.webdataset import MAX_BYTES, Span, read_shard

METADATA = "metadata.jsonl"
MAX_CAPTION = 1 << 20  # bytes


class ImageText(NamedTuple):
    """A picture and what it shows."""

    image: NDArray[np.uint8]  # (S, S, 3)
    caption: str
    name: str


@dataclass(frozen=True)
class _Entry:
    name: str
    caption: str
    picture: Span
    place: str  # of the picture, as its owner knows it


class ImageTextSet(Sequence[ImageText]):
    """Pictures with captions; captions are in memory, a picture is read when it is asked for.

    Copies of it may be used by several processes at once.
    """

    def __init__(self, entries: Iterable[_Entry], side: int) -> None:
        if side < 1:
            raise ValueError(f"side: got {side}, need at least 1")
        self.side = side
        self._entries = tuple(entries)

    @property
    def captions(self) -> list[str]:
        """Of all pictures, in order."""
        return [entry.caption for entry in self._entries]

    @property
    def pictures(self) -> list[Span]:
        """Where the picture files lie, in order."""
        return [entry.picture for entry in self._entries]

    @property
    def names(self) -> list[str]:
        """Of all pictures, in order."""
        return [entry.name for entry in self._entries]

    @property
    def places(self) -> list[str]:
        """Each picture's path, or its shard and its name there, in order."""
        return [entry.place for entry in self._entries]

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> ImageText: ...
    @overload
    def __getitem__(self, index: slice) -> ImageTextSet: ...
    def __getitem__(self, index: int | slice) -> ImageText | ImageTextSet:
        """One picture upright, on white, its middle square resized to `side`; or a part of the set.

        Raises:
            UserError: the picture cannot be read.
        """
        if isinstance(index, slice):
            return ImageTextSet(self._entries[index], self.side)
        entry = self._entries[index]
        image = decode_square(entry.picture.read(), entry.place, self.side)
        return ImageText(image, entry.caption, entry.name)


def open_image_text(path: str | Path, side: int) -> ImageTextSet:
    """Find the pictures of a folder or tar and their captions.

    Args:
        path: one of
            a folder with metadata.jsonl, a line {"file_name": "a/7.jpg", "text": "a cat"} for each picture;
            a folder with .tar shards, taken in the order of their names, or one such shard;
            a folder with a caption NAME.txt beside each NAME.png, .jpg, .jpeg or .webp, also in folders below it.
            In shards a sample has its caption as .txt, or else as "caption" or "text" of its .json.
        side: of the pictures returned, in pixels.
    Raises:
        UserError: absent, empty or damaged; pictures without captions or captions without pictures, with their count
            and the first of them.
    """
    path = Path(path)
    if path.is_dir():
        shards = sorted(file for file in path.glob("*.tar") if not file.name.startswith("."))
        if (path / METADATA).is_file():
            entries = _from_metadata(path)
        elif shards:
            entries = [entry for shard in shards for entry in _from_shard(shard)]
        else:
            entries = _from_folder(path)
    elif path.suffix == ".tar":
        entries = _from_shard(path)
    else:
        raise UserError(f"data not found: {path}; need a folder of pictures or a WebDataset .tar")
    if not entries:
        raise UserError(f"{path}: got no pictures, need NAME.png (jpg, webp) with NAME.txt, {METADATA}, or .tar shards")
    return ImageTextSet(entries, side)


def _from_folder(folder: Path) -> list[_Entry]:
    pictures: dict[str, Span] = {}
    captions: dict[str, Path] = {}
    for file, name in _files(folder):
        stem = name.rpartition(".")[0]
        if _is_picture(name):
            if stem in pictures:
                raise _twice(folder, stem)
            pictures[stem] = _whole(file)
        elif name.lower().endswith(".txt"):
            captions[stem] = file
    _refuse_lonely(folder, _without(pictures, captions), _without(captions, pictures))
    return [
        _Entry(stem, _caption(_whole(captions[stem]), captions[stem]), picture, str(picture.file))
        for stem, picture in pictures.items()
    ]


def _from_metadata(folder: Path) -> list[_Entry]:
    pictures = {name: file for file, name in _files(folder) if _is_picture(name)}
    captions = []
    for where, row in read_rows(folder / METADATA, {"file_name": str, "text": str}):
        name = row["file_name"].removeprefix("./")
        if not _is_picture(name):
            raise UserError(f"{where}: file_name: got {name!r:.80}, need a .png, .jpg, .jpeg or .webp")
        captions.append((name, row["text"].strip()))
    # Only files found below the folder can be named, so no name leads out of it.
    _refuse_lonely(folder, _without(pictures, dict(captions)), _without(dict(captions), pictures))
    return [_Entry(name, caption, _whole(pictures[name]), str(pictures[name])) for name, caption in captions]


def _from_shard(path: Path) -> list[_Entry]:
    shard = read_shard(path)
    pictures: dict[str, Span] = {}
    suffixes: dict[str, str] = {}
    captions: dict[str, Span] = {}
    for name, kinds in shard.items():
        drawn = [kind for kind in SUFFIXES if kind in kinds]
        if len(drawn) > 1:
            raise _twice(path, name)
        if drawn:
            pictures[name], suffixes[name] = kinds[drawn[0]], drawn[0]
        if "txt" in kinds or "json" in kinds:
            captions[name] = kinds.get("txt") or kinds["json"]
    _refuse_lonely(path, _without(pictures, captions), _without(captions, pictures))
    entries = []
    for name, picture in pictures.items():
        where = f"{path}: {name!r:.200}"
        caption = _caption(captions[name], where) if "txt" in shard[name] else _json_caption(captions[name], where)
        entries.append(_Entry(name, caption, picture, f"{path}: {f'{name}.{suffixes[name]}'!r:.200}"))
    return entries


def _files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Files below a folder in the order of their paths, each with its path from there; hidden ones are left out."""
    for file in sorted(folder.rglob("*")):
        parts = file.relative_to(folder).parts
        if file.is_file() and not any(part.startswith(".") for part in parts):
            yield file, "/".join(parts)


def _is_picture(name: str) -> bool:
    return name.rpartition(".")[2].lower() in SUFFIXES


def _whole(file: Path) -> Span:
    size = file.stat().st_size
    if size > MAX_BYTES:
        raise UserError(f"{file} has {size} bytes, at most {MAX_BYTES} are read; take it out")
    return Span(file, 0, size)


def _twice(where: Path, name: str) -> UserError:
    return UserError(f"{where}: two pictures are called {name!r:.200}; give each a name of its own")


def _without(these: Iterable[str], those: Mapping[str, object]) -> list[str]:
    return [name for name in these if name not in those]


def _refuse_lonely(where: Path, pictures: Sequence[str], captions: Sequence[str]) -> None:
    """One line on pictures without captions and captions without pictures, if there are any."""
    faults = []
    for what, names, other in (("picture", pictures, "caption"), ("caption", captions, "picture")):
        if names:
            faults.append(f"{len(names)} {what}{'s' * (len(names) > 1)} without a {other}, first {names[0]!r:.200}")
    if faults:
        raise UserError(f"{where}: {'; '.join(faults)}; give each picture one caption, or take it out")


def _text(span: Span, where: str | Path) -> str:
    if span.size > MAX_CAPTION:
        raise UserError(f"{where}: the caption has {span.size} bytes, at most {MAX_CAPTION} are read; shorten it")
    try:
        return span.read().decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        raise UserError(f"{where}: the caption is not UTF-8 (byte {fault.start}); convert it first") from fault


def _caption(span: Span, where: str | Path) -> str:
    return _text(span, where).strip()


def _json_caption(span: Span, where: str) -> str:
    text = _text(span, where)
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as fault:
        raise UserError(f"{where}: its .json is not JSON ({fault}); write it again") from fault
    caption = next((row[key] for key in ("caption", "text") if key in row), None) if isinstance(row, dict) else None
    if not isinstance(caption, str):
        raise UserError(f'{where}: its .json has no text under "caption" or "text"; add one, or a .txt')
    return caption.strip()
