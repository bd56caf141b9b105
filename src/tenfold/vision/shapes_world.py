"""The shapes world, defined to the pixel: four kinds in six colours and two sizes on a grey canvas of 32 x 32.

Pictures are (H, W, 3) RGB uint8, x runs right and y down. `shapes` draws such pictures, `shapes_check` reads them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tenfold.vision.geneval import RELATIONS, Clause, clauses

SIZE = 32  # pixels a side
BACKGROUND = (245, 245, 245)
PALETTE = {
    "red": (214, 39, 40),
    "green": (44, 160, 44),
    "blue": (31, 87, 214),
    "yellow": (240, 200, 30),
    "purple": (150, 50, 190),
    "cyan": (40, 200, 210),
}
KINDS = ("circle", "square", "triangle", "cross")
RADII = (4, 5)

Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels; the ends are not part of it


class Boxed(Protocol):
    """A thing with a place."""

    @property
    def box(self) -> Box: ...


@dataclass(frozen=True)
class Shape:
    """One object of a scene.

    Args:
        kind: of `KINDS`.
        color: of `PALETTE`.
        x, y: centre, in pixels.
        r: reach from the centre, of `RADII`.
    """

    kind: str
    color: str
    x: int
    y: int
    r: int

    def __post_init__(self) -> None:
        one_of("kind", self.kind, KINDS)
        one_of("color", self.color, PALETTE)
        one_of("r", self.r, RADII)

    @property
    def box(self) -> Box:
        """The centre and `r` pixels on each side, whatever the kind."""
        return box_around(self.x, self.y, self.r)


Scene = tuple[Shape, ...]


def box_around(x: int, y: int, r: int) -> Box:
    """The square of 2r + 1 pixels around a pixel."""
    return x - r, y - r, x + r + 1, y + r + 1


@cache
def stencil(kind: str, r: int) -> NDArray[np.bool_]:
    """The pixels of a shape, (2r + 1, 2r + 1), read-only."""
    y, x = np.ogrid[-r : r + 1, -r : r + 1]
    inside: NDArray[np.bool_] = {
        "circle": x * x + y * y <= r * r + 1,
        "square": np.maximum(abs(x), abs(y)) <= r - 1,
        "triangle": abs(x) <= (y + r) // 2,
        "cross": np.minimum(abs(x), abs(y)) <= 1,
    }[kind]
    inside.setflags(write=False)
    return inside


def relation(a: Boxed, b: Boxed) -> tuple[str, ...]:
    """Where `a` stands to `b`: none, one or two of "left of", "right of", "above", "below".

    The offset of the centres is first shortened, on each axis, by a tenth of both sizes.

    Source: Ghosh et al. 2023, GenEval, the position check.
    """
    offset, kept = [], []
    for low, high in ((0, 2), (1, 3)):
        o = (a.box[low] + a.box[high] - b.box[low] - b.box[high]) / 2
        sizes = a.box[high] - a.box[low] + b.box[high] - b.box[low]
        offset.append(o)
        kept.append(math.copysign(max(abs(o) - 0.1 * sizes, 0.0), o))
    if max(abs(kept[0]), abs(kept[1])) < 1e-3:
        return ()
    dx, dy = (o / math.hypot(*offset) for o in kept)  # by the whole offset, as GenEval does
    holds = (dx < -0.5, dx > 0.5, dy < -0.5, dy > 0.5)
    return tuple(name for name, here in zip(RELATIONS, holds, strict=True) if here)


def conditions(metadata: Mapping[str, Any]) -> tuple[tuple[Clause, ...], tuple[Clause, ...]]:
    """`geneval.clauses` of a prompt of this world.

    Raises:
        ValueError: also for a class or colour that it does not have.
    """
    include, exclude = clauses(metadata)
    for clause in (*include, *exclude):
        one_of("class", clause.kind, KINDS)
        if clause.color is not None:
            one_of("color", clause.color, PALETTE)
    return include, exclude


def one_of(name: str, value: object, known: Iterable[object]) -> None:
    """Refuse a value that is not among those known."""
    if value not in known:
        raise ValueError(f"{name}: got {value!r}, need one of {', '.join(map(str, known))}")
