"""Scenes of coloured shapes on a grid of 3 x 3, their pictures, and questions whose answers are known; signs to read.

A scene is a list of objects {"shape", "colour", "size", "row", "col"}, plain JSON data.
"""

# Shape legend: S side of a picture

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tenfold.vision.shapes_world import one_of

SHAPES = ("circle", "square", "triangle")
COLOURS = {
    "gray": (87, 87, 87),
    "red": (173, 35, 35),
    "blue": (42, 75, 215),
    "green": (29, 105, 20),
    "brown": (129, 74, 25),
    "purple": (129, 38, 192),
    "cyan": (41, 208, 208),
    "yellow": (255, 238, 51),
}
SIZES = {"large": 0.35, "small": 0.22}  # half-width over the side of a cell
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")
COUNTS = (1, 1, 2, 3, 4, 5, 6)  # objects of a scene, drawn from these
LETTERS = "ABCDEFGHJKLMNPRSTUVXYZ"
SIGN_SIZE = 96
_OVER = 4  # drawn so many times as large, then averaged

Object = Mapping[str, Any]
Scene = Sequence[Object]


class Question(NamedTuple):
    """A question about a scene, in lower case, and its answer in words or digits."""

    family: str
    question: str
    answer: str


def render_scene(objects: Scene, size: int) -> NDArray[np.uint8]:
    """Draw a scene.

    Args:
        objects: each with shape, colour, size ("large", "small"), row and col in 0..2; row 0 is the top.
        size: S.
    Returns:
        RGB picture (S, S, 3) on white.
    Raises:
        ValueError: an unknown shape, colour, size or cell; two objects in one cell.
    """
    from PIL import Image, ImageDraw

    if size < 1:
        raise ValueError(f"size: got {size}, need at least 1")
    check_scene(objects)
    canvas = Image.new("RGB", (_OVER * size, _OVER * size), (255, 255, 255))
    draw = ImageDraw.Draw(canvas)
    cell = _OVER * size / 3
    for each in objects:
        x, y, r = (each["col"] + 0.5) * cell, (each["row"] + 0.5) * cell, SIZES[each["size"]] * cell
        fill = COLOURS[each["colour"]]
        if each["shape"] == "circle":
            draw.ellipse([x - r, y - r, x + r, y + r], fill=fill)
        elif each["shape"] == "square":
            draw.rectangle([x - r, y - r, x + r, y + r], fill=fill)
        else:
            draw.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=fill)
    return np.asarray(canvas.resize((size, size), Image.Resampling.BOX))


def check_scene(objects: Scene) -> None:
    """Refuse what cannot be drawn."""
    cells = set()
    for each in objects:
        one_of("shape", each.get("shape"), SHAPES)
        one_of("colour", each.get("colour"), COLOURS)
        one_of("size", each.get("size"), SIZES)
        one_of("row", each.get("row"), range(3))
        one_of("col", each.get("col"), range(3))
        cells.add((each["row"], each["col"]))
    if len(cells) < len(objects):
        raise ValueError(f"objects: got {len(objects)} in {len(cells)} cells, need a cell for each")


def random_object(rng: np.random.Generator, cell: int) -> dict[str, Any]:
    """An object in a cell, 0..8 in reading order; everything else uniform."""
    return {
        "shape": SHAPES[rng.integers(len(SHAPES))],
        "colour": list(COLOURS)[rng.integers(len(COLOURS))],
        "size": list(SIZES)[rng.integers(len(SIZES))],
        "row": cell // 3,
        "col": cell % 3,
    }


def random_scene(rng: np.random.Generator, count: int | None = None) -> list[dict[str, Any]]:
    """A scene of `count` objects, or of one to six (`COUNTS`), in cells without repetition."""
    count = COUNTS[rng.integers(len(COUNTS))] if count is None else count
    return [random_object(rng, int(cell)) for cell in rng.choice(9, count, replace=False)]


def scene_questions(objects: Scene) -> list[Question]:
    """Every question that a scene answers, in a fixed order: count, total, exist, colour, shape, position."""
    check_scene(objects)
    kinds = Counter((each["colour"], each["shape"]) for each in objects)
    shapes = Counter(each["shape"] for each in objects)
    colours = Counter(each["colour"] for each in objects)
    cells = {(each["row"], each["col"]): f"{each['colour']} {each['shape']}" for each in objects}
    found = [
        Question("count", f"how many {colour} {shape}s are there?", str(kinds[colour, shape]))
        for colour in COLOURS
        for shape in SHAPES
    ]
    found.append(Question("total", "how many objects are there?", str(len(objects))))
    found += [
        Question("exist", f"is there a {colour} {shape}?", "yes" if kinds[colour, shape] else "no")
        for colour in COLOURS
        for shape in SHAPES
    ]
    for shape in SHAPES:
        if shapes[shape] == 1:
            colour = next(each["colour"] for each in objects if each["shape"] == shape)
            found.append(Question("colour", f"what colour is the {shape}?", colour))
    for colour in COLOURS:
        if colours[colour] == 1:
            shape = next(each["shape"] for each in objects if each["colour"] == colour)
            found.append(Question("shape", f"what shape is {colour}?", shape))
    found += [
        Question("position", f"what is in the {ROWS[row]} {COLUMNS[col]}?", cells.get((row, col), "nothing"))
        for row in range(3)
        for col in range(3)
    ]
    return found


def caption(objects: Scene) -> str:
    """What a scene shows, in reading order: "a small red circle and a large blue square"."""
    ordered = sorted(objects, key=lambda each: (each["row"], each["col"]))
    words = [f"a {each['size']} {each['colour']} {each['shape']}" for each in ordered]
    return " and ".join(words) if words else "nothing"


def render_sign(word: str, colour: str, x: float, y: float, size: int = SIGN_SIZE) -> NDArray[np.uint8]:
    """A word in one of `COLOURS` on white.

    Args:
        word: of `LETTERS`.
        x, y: where it stands, as shares of the room that is left beside and above it, in [0, 1].
        size: S; it is drawn at 96 pixels and averaged down where S divides that.
    Returns:
        RGB picture (S, S, 3).
    """
    from PIL import Image, ImageDraw, ImageFont

    one_of("colour", colour, COLOURS)
    if not word or set(word) - set(LETTERS) or not (0 <= x <= 1 and 0 <= y <= 1):
        raise ValueError(f"word, x, y: got {word!r}, {x}, {y}, need letters of {LETTERS} and shares in [0, 1]")
    canvas = Image.new("RGB", (_OVER * SIGN_SIZE,) * 2, (255, 255, 255))
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=16 * _OVER)
    left, top, right, bottom = draw.textbbox((0, 0), word, font=font)
    place = x * (canvas.width - (right - left)) - left, y * (canvas.height - (bottom - top)) - top
    draw.text(place, word, font=font, fill=COLOURS[colour])
    small = canvas.resize((SIGN_SIZE, SIGN_SIZE), Image.Resampling.BOX)
    return np.asarray(small if size == SIGN_SIZE else small.resize((size, size), Image.Resampling.BOX))


def random_sign(rng: np.random.Generator, letters: int = 3) -> dict[str, Any]:
    """Arguments of `render_sign`: a word of so many letters, its colour and its place."""
    return {
        "word": "".join(LETTERS[i] for i in rng.integers(len(LETTERS), size=letters)),
        "colour": list(COLOURS)[rng.integers(len(COLOURS))],
        "x": float(rng.random()),
        "y": float(rng.random()),
    }
