"""Emoji out of npm archives: small ones written here, and the rules against the prepared files."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.append(str(Path(__file__).parent))

from archives import tar_of

from tenfold.core import emoji_conversion
from tenfold.core.emoji_conversion import emoji_names, emoji_pictures


def png(rgba: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgba).save(buffer, "PNG")
    return buffer.getvalue()


def listed(code: str, order: int, category: str = "Animals", subcategory: str = "mammal") -> dict[str, Any]:
    return {"unified": code, "sort_order": order, "category": category, "subcategory": subcategory, "name": "OTHER"}


LISTING = [listed("1F408-200D-2B1B", 2), listed("1F3FB", 0, "Component"), listed("1F408", 1)]
NAMES = {
    "\U0001f408": {"name": "cat", "group": "Animals & Nature"},
    "\U0001f408\u200d\u2b1b": {"name": "Black Cat", "group": "Animals & Nature"},
}


def test_names_in_unicodes_order() -> None:
    drawings = tar_of({"emoji.json": json.dumps(LISTING).encode()}, folder="package/")
    content = emoji_names([drawings, tar_of({"data-by-emoji.json": json.dumps(NAMES).encode()}, folder="package/")])
    rows = [json.loads(line) for line in content.decode().splitlines()]
    assert [(row["i"], row["code"], row["name"]) for row in rows] == [
        (0, "1f408", "cat"),
        (1, "1f408-200d-2b1b", "black cat"),
    ]
    assert rows[1] | {"heldout": None} == {
        "i": 1,
        "emoji": "\U0001f408\u200d\u2b1b",
        "code": "1f408-200d-2b1b",
        "name": "black cat",
        "group": "Animals & Nature",
        "subgroup": "mammal",
        "heldout": None,
    }
    assert "\\u" not in content.decode()


def test_pictures_are_averaged_by_what_can_be_seen() -> None:
    clear, drawn = np.zeros((64, 64, 4), dtype=np.uint8), np.zeros((64, 64, 4), dtype=np.uint8)
    drawn[:2, :2] = [[[100, 0, 0, 255], [9, 9, 9, 0]], [[200, 0, 0, 255], [9, 9, 9, 0]]]
    drawn[2:4, :2] = [40, 50, 60, 102]
    drawn[4:6, :2, 3] = [[255, 0], [0, 0]]
    archives = []
    for vendor in ("google", "twitter"):
        pictures = {"1f408": drawn if vendor == "google" else clear, "1f408-200d-2b1b": clear, "1f3fb": drawn}
        files = {f"img/{vendor}/64/{code}.png": png(picture) for code, picture in pictures.items()}
        archives.append(
            tar_of(
                {"emoji.json": json.dumps(LISTING).encode(), f"img/{vendor}/32/1f408.png": b""} | files,
                folder="package/",
            )
        )
    with np.load(io.BytesIO(emoji_pictures(archives)), allow_pickle=False) as arrays:
        google, twitter = arrays["google"], arrays["twitter"]
    assert google.dtype == np.uint8 and google.shape == twitter.shape == (2, 32, 32, 4)
    assert google[0, :3, 0].tolist() == [[150, 0, 0, 128], [40, 50, 60, 102], [0, 0, 0, 64]]
    assert not google[1].any() and not twitter.any() and not google[0, :, 1:].any()


def test_the_rule_of_what_is_held_out_is_that_of_the_prepared_names(data_dir: Path) -> None:
    with (data_dir / "01-ec-dit/emoji.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    assert [row["heldout"] for row in rows] == [emoji_conversion._held_out(row["code"]) for row in rows]
