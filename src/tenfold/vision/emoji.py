"""Emoji in two drawing styles with their names: small captioned pictures, some pairs of style and name held out.

`read_emoji` reads the arrays and names of system 01, `read_emoji_shard` the shards of system 08 (larger drawings,
names in twelve languages, keywords); both give an `EmojiSet`.
"""

# Shape legend: N emoji, M drawings, S side of a drawing

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tokenize import TokenError
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tenfold.core import data
from tenfold.core.errors import UserError
from tenfold.vision.images import WHITE, composite, decode
from tenfold.vision.rows import check_keys, read_rows
from tenfold.vision.shapes_world import PALETTE, one_of
from tenfold.vision.webdataset import Span, read_about, read_shard

STYLES = {"noto": "google", "twemoji": "twitter"}  # style in captions -> whose drawings they are in the files
CAPTION = "{style} emoji of {name}"
MAX_SIDE = 512  # pixels

Part = Literal["all", "train", "heldout"]


@dataclass(frozen=True)
class Emoji:
    """One emoji.

    Args:
        char: the character or sequence of characters.
        code: its code points in hexadecimal, joined by "-".
        name: CLDR's short English name in lower case.
        group, subgroup: its place in Unicode's list.
        heldout: of `STYLES`; the drawing in this style is never trained on.
        names: the name by language, where known.
        keywords: English words for what it shows, where known.
    """

    char: str
    code: str
    name: str
    group: str
    subgroup: str
    heldout: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    keywords: tuple[str, ...] = ()


class Drawing(NamedTuple):
    """One picture: a row of an `EmojiSet` in one of `STYLES`."""

    row: int
    style: str


@dataclass(frozen=True)
class EmojiSet:
    """Emoji and how they are drawn.

    Args:
        rows: N of them.
        pictures: style -> uint8 (N, S, S, 4), RGB with straight alpha.
    """

    rows: tuple[Emoji, ...]
    pictures: Mapping[str, NDArray[np.uint8]]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def side(self) -> int:
        """S, in pixels."""
        return int(next(iter(self.pictures.values())).shape[1])

    def drawings(self, part: Part = "all") -> list[Drawing]:
        """Every drawing, those that may be trained on, or those that may not: by row, then by style."""
        one_of("part", part, ("all", "train", "heldout"))
        every = [Drawing(row, style) for row in range(len(self)) for style in self.pictures]
        if part == "all":
            return every
        return [
            drawing for drawing in every if (self.rows[drawing.row].heldout == drawing.style) == (part == "heldout")
        ]

    def image(self, drawing: Drawing, colour: str | None = None) -> NDArray[np.uint8]:
        """A drawing on white, or on a colour of `PALETTE`: (S, S, 3)."""
        return composite(self.pictures[drawing.style][drawing.row], _background(colour))

    def caption(self, drawing: Drawing, colour: str | None = None, template: str = CAPTION) -> str:
        """What a drawing shows: `template` with {style} and {name} filled in, and " on {colour}" where there is one."""
        text = template.format(style=drawing.style, name=self.rows[drawing.row].name)
        return text if colour is None else f"{text} on {colour}"

    def gather(
        self, drawings: Sequence[Drawing], colours: Iterable[str | None] = (None,), template: str = CAPTION
    ) -> tuple[NDArray[np.uint8], list[str]]:
        """All drawings on every background, the backgrounds outermost.

        Args:
            drawings: M of them.
            colours: None for white, or names of `PALETTE`.
            template: as for `caption`.
        Returns:
            pictures (M * backgrounds, S, S, 3) and their captions.
        """
        rgba = np.stack([self.pictures[drawing.style][drawing.row] for drawing in drawings])
        colours = tuple(colours)
        images = np.concatenate([composite(rgba, _background(colour)) for colour in colours])
        return images, [self.caption(drawing, colour, template) for colour in colours for drawing in drawings]


def read_emoji(pictures: str | Path | None = None, names: str | Path | None = None) -> EmojiSet:
    """Read `emoji32.npz` and `emoji.jsonl`; None takes those among the data sets.

    Args:
        pictures: arrays `google` and `twitter`, uint8 (N, S, S, 4).
        names: N lines {i, emoji, code, name, group, subgroup, heldout}; heldout is google, twitter or null.
    Raises:
        UserError: a file that is absent, damaged, or does not fit the other.
    """
    listing = data.path("emoji_names") if names is None else Path(names)
    archive = data.path("emoji_pictures") if pictures is None else Path(pictures)
    styles: dict[str | None, str | None] = {None: None} | {vendor: style for style, vendor in STYLES.items()}
    rows: list[Emoji] = []
    keys = {"i": int, "heldout": str | None} | dict.fromkeys(("emoji", "code", "name", "group", "subgroup"), str)
    for where, row in read_rows(listing, keys):
        if row["i"] != len(rows):
            raise UserError(f"{where}: i: got {row['i']}, need {len(rows)}; rows stand in the order of the pictures")
        if row.get("heldout") not in styles:
            raise UserError(f"{where}: heldout: got {row['heldout']!r:.80}, need {', '.join(STYLES.values())} or null")
        held_out = styles.get(row.get("heldout"))
        rows.append(Emoji(row["emoji"], row["code"], row["name"], row["group"], row["subgroup"], held_out))
    return EmojiSet(tuple(rows), _read_arrays(archive, len(rows)))


def read_emoji_shard(path: str | Path) -> EmojiSet:
    """Read a shard of `<code>.google.webp`, `<code>.twitter.webp` and `<code>.json`.

    The .json holds {hexcode, char, group, subgroup, name: {language: text}, keywords}, with an English name.

    Raises:
        UserError: absent, damaged, a sample without one of the three, or drawings of different sizes.
    """
    rows = []
    drawn: dict[str, list[NDArray[np.uint8]]] = {style: [] for style in STYLES}
    for sample, kinds in read_shard(Path(path)).items():
        where = f"{path}: {sample!r:.200}"
        kind_of = {style: f"{vendor}.webp" for style, vendor in STYLES.items()}
        missing = [kind for kind in ("json", *kind_of.values()) if kind not in kinds]
        if missing:
            raise UserError(f"{where}: got no .{missing[0]}; every emoji needs .json, .{', .'.join(kind_of.values())}")
        rows.append(_described(kinds, where))
        for style, kind in kind_of.items():
            drawing = decode(kinds[kind].read(), f"{where}: .{kind}", mode="RGBA", max_pixels=MAX_SIDE**2)
            side = drawn["noto"][0].shape[0] if drawn["noto"] else drawing.shape[0]
            if drawing.shape[:2] != (side, side):
                raise UserError(f"{where}: .{kind}: got {drawing.shape[:2]} pixels, need {side} x {side} as the others")
            drawn[style].append(drawing)
    if not rows:
        raise UserError(f"{path}: got no emoji, need at least one")
    return EmojiSet(tuple(rows), {style: np.stack(drawings) for style, drawings in drawn.items()})


def nearest_hits(
    emoji: EmojiSet,
    samples: NDArray[np.uint8],
    drawings: Sequence[Drawing],
    rng: np.random.Generator,
    candidates: int = 20,
) -> NDArray[np.bool_]:
    """Whether each sample is nearer to its own drawing than to others of the style, by mean squared error on white.

    Args:
        emoji: the drawings.
        samples: (M, S, S, 3), what a model made of the captions of `drawings`.
        drawings: M of them.
        rng: draws the others.
        candidates: drawings compared, the own one among them; chance is 1 in `candidates`.
    Returns:
        (M,); a tie is no hit.
    """
    if not 2 <= candidates <= len(emoji):
        raise ValueError(f"candidates: got {candidates}, need 2 to {len(emoji)}")
    if samples.shape != (len(drawings), emoji.side, emoji.side, 3):
        raise ValueError(f"samples: got {samples.shape}, need {(len(drawings), emoji.side, emoji.side, 3)}")
    hits = []
    for sample, (row, style) in zip(samples.astype(np.int32), drawings, strict=True):
        others = rng.choice(len(emoji) - 1, candidates - 1, replace=False)
        rows = np.concatenate([[row], others + (others >= row)])  # any row but the own one
        errors = np.square(composite(emoji.pictures[style][rows]) - sample).sum(axis=(1, 2, 3))
        hits.append(errors[0] < errors[1:].min())
    return np.array(hits, dtype=np.bool_)


def _background(colour: str | None) -> tuple[int, int, int]:
    if colour is None:
        return WHITE
    one_of("colour", colour, PALETTE)
    return PALETTE[colour]


def _described(kinds: Mapping[str, Span], where: str) -> Emoji:
    """The emoji that a shard's .json describes."""
    row = read_about(kinds, where)
    keys = {"name": dict, "keywords": list} | dict.fromkeys(("hexcode", "char", "group", "subgroup"), str)
    check_keys(row, keys, f"{where}: .json", f"it needs {', '.join(keys)}")
    if not isinstance(row["name"].get("en"), str):
        raise UserError(f"{where}: .json: name: got no English one; need a text under en")
    return Emoji(
        row["char"],
        row["hexcode"].lower(),
        row["name"]["en"].lower(),
        row["group"],
        row["subgroup"],
        names={language: str(name) for language, name in row["name"].items()},
        keywords=tuple(map(str, row["keywords"])),
    )


def _read_arrays(path: Path, count: int) -> dict[str, NDArray[np.uint8]]:
    """The drawings of every style; headers are checked before anything is unpacked, so sizes are bounded."""
    if not path.is_file():
        raise UserError(f"{path} not found; need the arrays {', '.join(STYLES.values())}")
    try:
        with zipfile.ZipFile(path) as archive:
            pictures = {style: _read_array(archive, vendor, path, count) for style, vendor in STYLES.items()}
    except UserError:
        raise
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, KeyError, ValueError, RuntimeError, TokenError) as fault:
        reason = " ".join(str(fault).split())
        raise UserError(f"{path}: damaged or no .npz of emoji ({reason}); fetch it again") from fault
    if len({array.shape for array in pictures.values()}) > 1:
        raise UserError(f"{path}: the styles have drawings of different sizes; fetch it again")
    return pictures


def _read_array(archive: zipfile.ZipFile, name: str, path: Path, count: int) -> NDArray[np.uint8]:
    """One array of an .npz, read-only."""
    with archive.open(f"{name}.npy") as file:
        np.lib.format.read_magic(file)
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        side = shape[1] if len(shape) == 4 else 0
        if dtype != np.uint8 or fortran or shape != (count, side, side, 4) or not 1 <= side <= MAX_SIDE:
            raise UserError(f"{path}: {name}: got {dtype} {shape}, need uint8 ({count}, S, S, 4) with S to {MAX_SIDE}")
        size = math.prod(shape)
        content = file.read(size + 1)
    if len(content) != size:
        raise ValueError(f"{name} is cut off or goes on behind its end")
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)
