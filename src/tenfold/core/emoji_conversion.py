"""From the npm packages of emoji drawings and names to `emoji32.npz` and `emoji.jsonl`, byte for byte."""

# Shape legend: N emoji, S side of a drawing

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

VENDORS = ("google", "twitter")
_LISTING = "package/emoji.json"
_NAMES = "package/data-by-emoji.json"


def emoji_pictures(origins: Sequence[bytes]) -> bytes:
    """Arrays `google` and `twitter`, uint8 (N, 32, 32, 4), of the archives of both drawing styles, in this order.

    Each drawing of 64 x 64 pixels is averaged over blocks of 2 x 2.
    """
    drawings = {}
    codes = None
    for vendor, archive in zip(VENDORS, origins, strict=True):
        files = unpack(archive, _LISTING, f"package/img/{vendor}/64/")
        codes = codes or [_code(item) for item in _listed(files)]
        drawings[vendor] = np.stack([_halved(_pixels(files[f"package/img/{vendor}/64/{code}.png"])) for code in codes])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, google=drawings["google"], twitter=drawings["twitter"])
    return buffer.getvalue()


def emoji_names(origins: Sequence[bytes]) -> bytes:
    """Rows {i, emoji, code, name, group, subgroup, heldout}, of the archives of Google's drawings and of the names."""
    drawings, names = origins
    by_emoji = json.loads(unpack(names, _NAMES)[_NAMES])
    rows = []
    for i, item in enumerate(_listed(unpack(drawings, _LISTING))):
        code = _code(item)
        emoji = "".join(chr(int(point, 16)) for point in code.split("-"))
        rows.append(
            {
                "i": i,
                "emoji": emoji,
                "code": code,
                "name": by_emoji[emoji]["name"].lower(),
                "group": by_emoji[emoji]["group"],
                "subgroup": item["subcategory"],
                "heldout": _held_out(code),
            }
        )
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _held_out(code: str) -> str | None:
    """The style never trained on: one emoji in twenty each, by its code alone."""
    share = int(hashlib.sha1(code.encode(), usedforsecurity=False).hexdigest(), 16) % 20
    return {0: "twitter", 1: "google"}.get(share)


def _listed(files: dict[str, bytes]) -> list[dict[str, Any]]:
    """The emoji in Unicode's order, without the five patches of skin colour."""
    items = [item for item in json.loads(files[_LISTING]) if item["category"] != "Component"]
    return sorted(items, key=lambda item: item["sort_order"])


def _code(item: dict[str, Any]) -> str:
    code: str = item["unified"].lower()
    return code


def unpack(archive: bytes, *wanted: str) -> dict[str, bytes]:
    """The files of a .tgz whose names start with one of `wanted`."""
    files = {}
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        for member in tar:
            if member.name.startswith(wanted) and (file := tar.extractfile(member)) is not None:
                files[member.name] = file.read()
    return files


def _pixels(png: bytes) -> NDArray[np.uint8]:
    from PIL import Image

    with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
        return np.asarray(image.convert("RGBA"))


def _halved(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Half the size: colours averaged by their opacity, so that what cannot be seen does not bleed in.

    The order of additions counts for the last bit, and so for how halves are rounded.
    """
    values = rgba / 255.0
    opacity = values[..., 3:]
    mean_opacity = _mean_of_four(opacity)
    colour = _mean_of_four(values[..., :3] * opacity) / np.maximum(mean_opacity, 1e-8)
    return np.round(np.concatenate([colour, mean_opacity], axis=-1) * 255).astype(np.uint8)


def _mean_of_four(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return (x[::2, ::2] + x[::2, 1::2] + x[1::2, ::2] + x[1::2, 1::2]) / 4
