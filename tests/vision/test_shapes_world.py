"""The definition of the shapes world: stencils, boxes, relations and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from tenfold.vision.shapes_world import KINDS, RADII, Shape, conditions, relation, stencil

STENCILS = {
    ("circle", 4): [
        "...###...",
        "..#####..",
        ".#######.",
        "#########",
        "#########",
        "#########",
        ".#######.",
        "..#####..",
        "...###...",
    ],
    ("square", 4): [".........", *[".#######."] * 7, "........."],
    ("triangle", 4): [
        "....#....",
        "....#....",
        "...###...",
        "...###...",
        "..#####..",
        "..#####..",
        ".#######.",
        ".#######.",
        "#########",
    ],
    ("cross", 4): [*["...###..."] * 3, *["#########"] * 3, *["...###..."] * 3],
    ("triangle", 5): [
        ".....#.....",
        ".....#.....",
        "....###....",
        "....###....",
        "...#####...",
        "...#####...",
        "..#######..",
        "..#######..",
        ".#########.",
        ".#########.",
        "###########",
    ],
}


@pytest.mark.parametrize(("kind", "r"), STENCILS)
def test_stencils_pixel_by_pixel(kind: str, r: int) -> None:
    assert ["".join(".#"[here] for here in row) for row in stencil(kind, r).astype(int)] == STENCILS[kind, r]


def test_areas_of_all_stencils() -> None:
    areas = {(kind, r): int(stencil(kind, r).sum()) for kind in KINDS for r in RADII}
    assert areas == {
        ("circle", 4): 57,
        ("circle", 5): 89,
        ("square", 4): 49,
        ("square", 5): 81,
        ("triangle", 4): 41,
        ("triangle", 5): 61,
        ("cross", 4): 45,
        ("cross", 5): 57,
    }


def test_a_box_reaches_r_to_each_side_whatever_the_kind() -> None:
    assert [Shape(kind, "red", 10, 12, 4).box for kind in KINDS] == [(6, 8, 15, 17)] * 4


@pytest.mark.parametrize(
    ("dx", "dy", "r", "expected"),
    [
        # sizes 9 + 9: an axis counts beyond 1.8 pixels, and what is left of it from half of the whole offset
        (0, 0, 4, ()),
        (1, -1, 4, ()),
        (-10, 0, 4, ("left of",)),
        (10, 1, 4, ("right of",)),
        (0, -10, 4, ("above",)),
        (-1, 10, 4, ("below",)),
        (-10, -10, 4, ("left of", "above")),  # 8.2 / 14.14 = 0.58
        (10, 10, 4, ("right of", "below")),
        (3, 3, 4, ()),  # 1.2 / 4.24 = 0.28
        (10, 7, 4, ("right of",)),  # 8.2 / 12.2 = 0.67 and 5.2 / 12.2 = 0.43
        # sizes 11 + 11: 2.2 pixels
        (12, -9, 5, ("right of",)),  # 9.8 / 15 = 0.65 and 6.8 / 15 = 0.45
        (11, -10, 5, ("right of", "above")),  # 8.8 / 14.9 = 0.59 and 7.8 / 14.9 = 0.52
        (2, 2, 5, ()),
    ],
)
def test_relations_by_hand(dx: int, dy: int, r: int, expected: tuple[str, ...]) -> None:
    a, b = Shape("cross", "red", 16 + dx, 16 + dy, r), Shape("square", "blue", 16, 16, r)
    assert relation(a, b) == expected
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    assert relation(b, a) == tuple(opposite[name] for name in expected)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (("star", "red", 9, 9, 4), "kind: got 'star', need one of circle, square, triangle, cross"),
        (("cross", "grey", 9, 9, 4), "color: got 'grey', need one of red, green, blue, yellow, purple, cyan"),
        (("cross", "red", 9, 9, 6), "r: got 6, need one of 4, 5"),
    ],
)
def test_shapes_it_does_not_have(fields: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Shape(*fields)


def test_prompts_of_another_world() -> None:
    circle = {"class": "circle", "count": 1}
    with pytest.raises(ValueError, match="class: got 'dog', need one of circle, square, triangle, cross"):
        conditions({"include": [{"class": "dog", "count": 1}]})
    with pytest.raises(ValueError, match="class: got 'dog'"):
        conditions({"include": [circle], "exclude": [{"class": "dog", "count": 2}]})
    with pytest.raises(ValueError, match="color: got 'orange', need one of red, "):
        conditions({"include": [circle | {"color": "orange"}]})
