"""Shards of captioned emoji out of small npm archives, and the prepared shards against the same rules."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pytest
from PIL import Image

sys.path.append(str(Path(__file__).parent))

from archives import tar_of

from tenfold.core.catalogue import CATALOGUE
from tenfold.core.emoji_shards import LANGUAGES, PARTS, SIDE, _share, emoji_shard
from tenfold.core.origins import content_sha256

Part = Literal["train", "val"]
CODES = [f"1F4{i:02X}" for i in range(96)]


def drawing(red: int) -> bytes:
    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[16:48, 16:48] = (red, 40, 200, 255)
    rgba[50:60, ::3] = (red, 200, 40, 255)  # fine lines show how it was made small
    buffer = io.BytesIO()
    Image.fromarray(rgba).save(buffer, "PNG")
    return buffer.getvalue()


def names(codes: list[str], **others: Any) -> bytes:
    """The package of names: group 0 for all but for `others`, entries by code."""
    messages = {
        "groups": [{"order": 0, "key": "objects"}, {"order": 1, "key": "flags"}],
        "subgroups": [{"order": 7, "key": "tool"}],
    }
    files = {"en/messages.json": json.dumps(messages).encode()}
    for language in LANGUAGES:
        entries = []
        for code in codes:
            char = "".join(chr(int(point, 16)) for point in code.split("-")) + "\ufe0f"
            entry = {
                "hexcode": code,
                "emoji": char,
                "label": f"{language} {code}",
                "tags": ["thing"],
                "group": 0,
                "subgroup": 7,
            }
            entries.append(entry | others.get(code, {}))
        files[f"{language}/data.json"] = json.dumps(entries[::-1]).encode()
    return tar_of(files, folder="package/")


def drawings(codes: list[str], vendor: str, red: int) -> bytes:
    return tar_of({f"img/{vendor}/64/{code.lower()}-fe0f.png": drawing(red) for code in codes}, folder="package/")


def members(shard: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(shard)) as tar:
        return {member.name: file.read() for member in tar if (file := tar.extractfile(member))}


@pytest.fixture(scope="module")
def shards() -> dict[str, bytes]:
    codes = [*CODES, "1F500", "1F501"]
    flag = {"1F500": {"group": 1}}
    origins = [drawings(codes, "google", 250), drawings(codes[:-1], "twitter", 10), names(codes, **flag)]
    return {part: emoji_shard(part)(origins) for part in get_args(Part)}


def test_three_files_an_emoji_in_the_order_of_codes(shards: dict[str, bytes]) -> None:
    files = members(shards["train"])
    keys = list(dict.fromkeys(name.split(".")[0] for name in files))
    assert keys == sorted(keys)
    assert list(files)[:3] == [f"{keys[0]}.google.webp", f"{keys[0]}.twitter.webp", f"{keys[0]}.json"]
    assert json.loads(files[f"{keys[0]}.json"]) == {
        "hexcode": keys[0],
        "char": chr(int(keys[0], 16)) + "\ufe0f",
        "group": "objects",
        "subgroup": "tool",
        "name": {language: f"{language} {keys[0]}" for language in LANGUAGES},
        "keywords": ["thing"],
    }


def test_parts_are_apart_and_leave_out_flags_and_what_one_style_lacks(shards: dict[str, bytes]) -> None:
    train, val = ({name.split(".")[0] for name in members(shards[part])} for part in ("train", "val"))
    assert val and not train & val
    assert train | val == {code for code in CODES if _share(code) >= 0.08}


def test_pictures_are_the_drawings_made_small(shards: dict[str, bytes]) -> None:
    files = members(shards["val"])
    key = next(iter(files)).split(".")[0]
    for vendor, red in (("google", 250), ("twitter", 10)):
        with Image.open(io.BytesIO(files[f"{key}.{vendor}.webp"])) as image:
            assert image.format == "WEBP" and image.mode == "RGBA" and image.size == (SIDE, SIDE)
            assert image.getpixel((2, 2))[3] == 0 and image.getpixel((24, 24)) == pytest.approx(
                (red, 40, 200, 255), abs=12
            )
            with Image.open(io.BytesIO(drawing(red))) as whole:
                small = np.asarray(whole.resize((SIDE, SIDE), Image.Resampling.LANCZOS))[..., 3]
            assert np.array_equal(np.asarray(image)[..., 3], small)  # opacity is kept without loss


def test_the_content_is_the_same_whatever_the_encoder_made(shards: dict[str, bytes]) -> None:
    files = members(shards["val"])
    assert tar_of(files, gzip=False) == shards["val"]
    told = content_sha256("x.tar", shards["val"])
    other = {name: b"other" if name.endswith(".webp") else content for name, content in files.items()}
    assert content_sha256("x.tar", tar_of(other, gzip=False)) == told
    renamed = {name.replace("twitter", "someone"): content for name, content in files.items()}
    reworded = {name: content.replace(b'"thing"', b'"think"') for name, content in files.items()}
    for changed in (renamed, reworded, dict(reversed(files.items()))):
        assert content_sha256("x.tar", tar_of(changed, gzip=False)) != told


@pytest.mark.parametrize("part", get_args(Part))
def test_prepared_shards_keep_the_rule(part: Part, data_dir: Path) -> None:
    files = members((data_dir / CATALOGUE[f"captioned_emoji_{part}"].file).read_bytes())
    keys = list(dict.fromkeys(name.split(".")[0] for name in files))
    assert keys == sorted(keys) and len(keys) == {"train": 1367, "val": 152}[part]
    assert list(files) == [f"{key}.{kind}" for key in keys for kind in ("google.webp", "twitter.webp", "json")]
    low, high = PARTS[part]
    assert all(low <= _share(key) < high for key in keys)
    about = json.loads(files[f"{keys[0]}.json"])
    assert tuple(about["name"]) == LANGUAGES
