"""From the npm packages of emoji drawings and names to shards of captioned emoji: a tar archive in the layout of WebDataset."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from typing import Any, Literal

from tenfold.core.conversions import Conversion
from tenfold.core.emoji_conversion import VENDORS, unpack

LANGUAGES = ("en", "de", "fr", "es", "it", "pt", "nl", "sv", "fi", "pl", "hu", "et")
SIDE = 48  # pixels
LEFT_OUT = ("component", "flags")
PARTS = {"train": (0.16, 1.0), "val": (0.08, 0.16)}  # of the shares that emoji have by their code
_KEYS = "package/en/messages.json"


def emoji_shard(part: Literal["train", "val"]) -> Conversion:
    """Emoji with both drawings, of the archives of Google's and of Twitter's drawings and of the names.

    An emoji KEY is three files: KEY.google.webp, KEY.twitter.webp and KEY.json, which holds {hexcode, char, group, subgroup,
    name, keywords}, the name in twelve languages. Patches of skin and hair, letters, flags and emoji that one style lacks
    are left out. Whatever Pillow's WebP encoder makes of a drawing is taken: other versions of libwebp may give other bytes.
    """
    low, high = PARTS[part]

    def convert(origins: Sequence[bytes]) -> bytes:
        *drawings, names = origins
        rows = [row for row in _described(names) if low <= _share(row["hexcode"]) < high]
        pictures = {}
        for vendor, archive in zip(VENDORS, drawings, strict=True):
            folder = f"package/img/{vendor}/64/"
            pictures[vendor] = {
                _key(name.removeprefix(folder).removesuffix(".png")): png
                for name, png in unpack(archive, folder).items()
            }
        shard = io.BytesIO()
        with tarfile.open(fileobj=shard, mode="w") as tar:
            for row in rows:
                key = _key(row["hexcode"])
                if all(key in pictures[vendor] for vendor in VENDORS):
                    for vendor in VENDORS:
                        _add(tar, f"{row['hexcode']}.{vendor}.webp", _reduced(pictures[vendor][key]))
                    _add(tar, f"{row['hexcode']}.json", json.dumps(row, ensure_ascii=False).encode())
        return shard.getvalue()

    return convert


def _described(archive: bytes) -> list[dict[str, Any]]:
    """What the package of names says of every emoji that belongs to a group, in the order of their codes."""
    files = unpack(archive, _KEYS, *(f"package/{language}/data.json" for language in LANGUAGES))
    keys = json.loads(files[_KEYS])
    groups, subgroups = ({entry["order"]: entry["key"] for entry in keys[kind]} for kind in ("groups", "subgroups"))
    data = {language: json.loads(files[f"package/{language}/data.json"]) for language in LANGUAGES}
    labels = {language: {item["hexcode"]: item["label"] for item in data[language]} for language in LANGUAGES}
    return [
        {
            "hexcode": item["hexcode"],
            "char": item["emoji"],
            "group": groups[item["group"]],
            "subgroup": subgroups[item["subgroup"]],
            "name": {language: labels[language][item["hexcode"]] for language in LANGUAGES},
            "keywords": item["tags"],
        }
        for item in sorted(data["en"], key=lambda item: str(item["hexcode"]))
        if "group" in item and groups[item["group"]] not in LEFT_OUT
    ]


def _share(hexcode: str) -> float:
    """A number from 0 to 1 by the code alone, so that both drawings are in one part whatever else is added."""
    return int(hashlib.sha256(f"emoji{hexcode}".encode()).hexdigest()[:8], 16) / 2**32


def _key(code: str) -> str:
    """A code without the mark "show as a picture", which the packages do not agree on."""
    return "-".join(point for point in code.lower().split("-") if point != "fe0f")


def _reduced(png: bytes) -> bytes:
    """A drawing at `SIDE` x `SIDE` pixels, its opacity kept, as WebP."""
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
        small = image.convert("RGBA").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    small.save(buffer, "WEBP", quality=80, method=4)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # no time, no owner: equal content gives an equal archive
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
