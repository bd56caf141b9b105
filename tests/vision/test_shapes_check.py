"""The check of the shapes world against a slow twin, the truth, chance, damaged shapes and GenEval's rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from tenfold.vision.geneval import TASKS, read_metadata
from tenfold.vision.shapes import Detection, Shape, detect, evaluate, relation, render, sample_scene
from tenfold.vision.shapes_world import BACKGROUND, KINDS, PALETTE, RADII, stencil

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def train(data_dir: Path) -> Rows:
    return read_metadata(data_dir / "01-ec-dit" / "shapes" / "prompts_train.jsonl")


@pytest.fixture(scope="module")
def val(data_dir: Path) -> Rows:
    return read_metadata(data_dir / "01-ec-dit" / "shapes" / "prompts_val.jsonl")


def noisy(image: NDArray[Any], sigma: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    return np.clip(np.rint(image + rng.normal(0, sigma, image.shape)), 0, 255).astype(np.uint8)


def painted(mask: NDArray[np.bool_], color: str = "purple") -> NDArray[np.uint8]:
    return np.where(mask[..., None], PALETTE[color], BACKGROUND).astype(np.uint8)


def slow_detect(image: NDArray[np.uint8]) -> list[Detection]:
    """The definition, pixel by pixel."""
    colored: dict[str, set[tuple[int, int]]] = {color: set() for color in PALETTE}
    for y, x in np.ndindex(image.shape[:2]):

        def distance(rgb: tuple[int, ...], pixel: list[int] = image[y, x].tolist()) -> float:
            return float(sum((a - b) ** 2 for a, b in zip(pixel, rgb, strict=True)) ** 0.5)

        if distance(BACKGROUND) > 80:
            colored[min(PALETTE, key=lambda color: distance(PALETTE[color]))].add((y, x))
    found = []
    for color, pixels in colored.items():
        for piece in pieces(pixels):
            if len(piece) >= 12 and (best := slow_match(piece))[0] >= 0.75:
                score, kind, r, x, y = best
                found.append(Detection(kind, color, (x - r, y - r, x + r + 1, y + r + 1), score, (x, y)))
    return sorted(found, key=lambda one: (-one.score, one.box[1], one.box[0]))


def pieces(pixels: set[tuple[int, int]]) -> Iterator[set[tuple[int, int]]]:
    left = set(pixels)
    while left:
        piece, front = set(), [left.pop()]
        while front:
            y, x = front.pop()
            piece.add((y, x))
            near = {(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)} & left
            left -= near
            front += near
        yield piece


def slow_match(piece: set[tuple[int, int]]) -> tuple[float, str, int, int, int]:
    rows, columns = ([pixel[axis] for pixel in piece] for axis in (0, 1))
    best = (-1.0, "", 0, 0, 0)
    for kind in KINDS:
        for r in RADII:
            ys, xs = np.nonzero(stencil(kind, r))
            for y in range(min(rows) - r, max(rows) + r + 1):
                for x in range(min(columns) - r, max(columns) + r + 1):
                    placed = set(zip((ys + y - r).tolist(), (xs + x - r).tolist(), strict=True))
                    score = len(piece & placed) / len(piece | placed)
                    best = (score, kind, r, x, y) if score > best[0] else best
    return best


def damaged(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Shapes that may touch, overlap and leave the canvas, blurred and noisy."""
    scene = tuple(
        Shape(
            str(rng.choice(KINDS)),
            str(rng.choice(list(PALETTE))),
            *rng.integers(0, 32, 2).tolist(),
            int(rng.choice(RADII)),
        )
        for _ in range(4)
    )
    sigma = rng.uniform(0, 0.8)
    return noisy(ndimage.gaussian_filter(render(scene).astype(float), (sigma, sigma, 0)), rng.uniform(0, 40), rng)


def test_the_fast_check_is_the_slow_one() -> None:
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(18):
        image = damaged(rng)
        detections = detect(image)
        assert detections == slow_detect(image)
        found += len(detections)
    assert found > 18


def test_other_sizes_and_empty_pictures() -> None:
    assert detect(render(())) == []
    wide = np.concatenate([render(()), render((Shape("cross", "blue", 9, 20, 5),))], axis=1)
    assert detect(wide) == [Detection("cross", "blue", (36, 15, 47, 26), 1.0, (41, 20))]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("r", RADII)
def test_every_shape_in_every_colour_is_found_where_it_stands(kind: str, r: int) -> None:
    for color in PALETTE:
        shape = Shape(kind, color, 7, 23, r)
        assert detect(render((shape,))) == [Detection(kind, color, shape.box, 1.0, (7, 23))]


def test_the_best_come_first_and_equals_in_reading_order() -> None:
    image = render(
        tuple(Shape("circle", color, x, y, 4) for color, x, y in [("red", 20, 25), ("blue", 6, 25), ("cyan", 25, 6)])
    )
    image[6, 25] = BACKGROUND  # a hole
    assert [one.color for one in detect(image)] == ["blue", "red", "cyan"]
    assert detect(image)[2].score == 56 / 57


def test_pieces_touch_on_their_sides_and_have_one_colour() -> None:
    square = np.zeros((32, 32), dtype=bool)
    square[5:12, 5:12] = True
    corner = square.copy()
    corner[12:19, 12:19] = True
    assert [one.kind for one in detect(painted(corner))] == ["square"] * 2
    halves = painted(square)
    halves[5:12, 8:12] = PALETTE["blue"]
    assert detect(halves) == []


def test_what_is_near_the_background_is_background() -> None:
    square = np.zeros((32, 32), dtype=bool)
    square[5:12, 5:12] = True
    for grey, count in ((245 - 46, 0), (245 - 47, 1)):  # 46 * sqrt(3) = 79.7, 47 * sqrt(3) = 81.4
        assert len(detect(np.where(square[..., None], grey, 245).astype(np.uint8).repeat(3, axis=2))) == count


@pytest.mark.parametrize("sigma", [0, 15])
def test_true_pictures_are_all_right(train: Rows, val: Rows, sigma: float) -> None:
    rng = np.random.default_rng(2)
    for row in 2 * (train + val):
        verdict = evaluate(noisy(render(sample_scene(row, rng)), sigma, rng), row)
        assert verdict.correct and verdict.reason == "", (row["prompt"], verdict)


def test_pictures_of_other_prompts_score_the_floor(train: Rows, val: Rows) -> None:
    """A task drawn evenly, then a training prompt of it: what luck alone is worth."""
    rng = np.random.default_rng(0)
    by_task = {task: [row for row in train if row["tag"] == task] for task in TASKS}
    rate = {}
    for task in TASKS:
        rows = [row for row in val if row["tag"] == task]
        right = 0
        for i in range(360):
            others = by_task[TASKS[rng.integers(len(TASKS))]]
            other = others[rng.integers(len(others))]
            right += evaluate(render(sample_scene(other, rng)), rows[i % len(rows)]).correct
        rate[task] = right / 360
    floor = {"single_object": 0.365, "two_object": 0.077, "counting": 0.013}
    floor |= {"colors": 0.060, "position": 0.013, "color_attr": 0.001}
    for task, expected in floor.items():
        assert abs(rate[task] - expected) < 0.01 + 3 * (expected * (1 - expected) / 360) ** 0.5, (task, rate)
    assert sum(rate.values()) / 6 == pytest.approx(0.088, abs=0.015)


def test_half_shapes_are_none() -> None:
    for kind in KINDS:
        for r in RADII:
            ys, xs = np.nonzero(stencil(kind, r))
            for order in (np.lexsort((xs, ys)), np.lexsort((ys, xs))):
                for half in (order[: len(order) // 2], order[-(len(order) // 2) :]):
                    mask = np.zeros((32, 32), dtype=bool)
                    mask[ys[half] + 10, xs[half] + 10] = True
                    assert detect(painted(mask)) == [], (kind, r)


def test_grown_blobs_are_none() -> None:
    """Blobs that grow by a random pixel of their edge: at most 2 % look like a shape."""
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(200):
        mask = np.zeros((32, 32), dtype=bool)
        mask[16, 16] = True
        for _ in range(rng.integers(40, 90)):
            edge = np.argwhere(ndimage.binary_dilation(mask) & ~mask)
            mask[tuple(edge[rng.integers(len(edge))])] = True
        found += bool(detect(painted(mask)))
    assert found <= 4


@pytest.mark.parametrize(("sigma", "share"), [(0.6, 0.98), (0.9, 0.80)])
def test_slightly_blurred_shapes_are_found(sigma: float, share: float) -> None:
    rng = np.random.default_rng(0)
    found = 0
    for i in range(240):
        x, y = rng.integers(6, 26, size=2).tolist()
        shape = Shape(KINDS[i % 4], list(PALETTE)[i % 6], x, y, RADII[i % 8 // 4])
        blurred = ndimage.gaussian_filter(render((shape,)).astype(float), (sigma, sigma, 0))
        found += any((one.kind, one.color) == (shape.kind, shape.color) for one in detect(noisy(blurred, 10, rng)))
    assert found >= share * 240


SCENE = (
    Shape("circle", "red", 7, 7, 4),
    Shape("circle", "blue", 24, 7, 4),
    Shape("square", "green", 7, 24, 4),
    Shape("cross", "green", 24, 24, 4),
)


@pytest.mark.parametrize(
    ("include", "exclude", "reason"),
    [
        ([{"class": "circle", "count": 1}], [], ""),
        ([{"class": "circle", "count": 2}, {"class": "cross", "count": 1}], [], ""),
        ([{"class": "circle", "count": 3}], [], "circle: found 2, need 3"),
        ([{"class": "triangle", "count": 1}], [], "triangle: found 0, need 1"),
        # too many: only `exclude` forbids it
        ([{"class": "circle", "count": 2}], [{"class": "circle", "count": 3}], ""),
        ([{"class": "circle", "count": 1}], [{"class": "circle", "count": 2}], "circle: found 2, need fewer than 2"),
        ([{"class": "circle", "count": 1}], [{"class": "square", "count": 1}], "square: found 1, need fewer than 1"),
        # of two circles the first in reading order is judged, as both overlap fully
        ([{"class": "circle", "count": 1, "color": "red"}], [], ""),
        ([{"class": "circle", "count": 1, "color": "blue"}], [], "circle: found red, need blue"),
        ([{"class": "circle", "count": 2, "color": "red"}], [], "circle: found red, blue, need red"),
        ([{"class": "cross", "count": 1, "color": "red"}], [], "cross: found green, need red"),
        # clauses do not use objects up
        ([{"class": "circle", "count": 1}, {"class": "circle", "count": 2}], [], ""),
        ([{"class": "circle", "count": 2}, {"class": "square", "count": 1, "position": ["left of", 0]}], [],
         "square: found below, need left of"),
        ([{"class": "circle", "count": 1}, {"class": "square", "count": 1, "position": ["below", 0]}], [], ""),
        ([{"class": "circle", "count": 1}, {"class": "square", "count": 1, "position": ["above", 0]}], [],
         "square: found below, need above"),
        # a diagonal has two relations, and either will do
        ([{"class": "circle", "count": 1}, {"class": "cross", "count": 1, "position": ["below", 0]}], [], ""),
        ([{"class": "circle", "count": 1}, {"class": "cross", "count": 1, "position": ["right of", 0]}], [], ""),
        # no target, since its own condition failed; several faults
        ([{"class": "circle", "count": 3}, {"class": "cross", "count": 1, "position": ["below", 0]}],
         [{"class": "cross", "count": 1}],
         "circle: found 2, need 3\ncross: nothing to be below\ncross: found 1, need fewer than 1"),
        # the colour is judged first, the place only where it is right
        ([{"class": "square", "count": 1}, {"class": "cross", "count": 1, "color": "red", "position": ["above", 0]}], [],
         "cross: found green, need red"),
    ],
)  # fmt: skip
def test_genevals_rules(include: Rows, exclude: Rows, reason: str) -> None:
    verdict = evaluate(render(SCENE), {"include": include, "exclude": exclude})
    assert verdict.reason == reason
    assert verdict.correct == (not reason)


def test_relations_of_detections_are_those_of_the_shapes() -> None:
    found = {(one.kind, one.color): one for one in detect(render(SCENE))}
    for a in SCENE:
        for b in SCENE:
            assert relation(found[a.kind, a.color], found[b.kind, b.color]) == relation(a, b)


def test_details_of_a_verdict() -> None:
    verdict = evaluate(render(SCENE), {"include": [{"class": "circle", "count": 1}]})
    assert verdict.details == {
        "circle": [[3, 3, 12, 12, 1.0], [20, 3, 29, 12, 1.0]],
        "square": [[3, 20, 12, 29, 1.0]],
        "cross": [[20, 20, 29, 29, 1.0]],
    }


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"include": [{"class": "dog", "count": 1}]}, "class: got 'dog', need one of circle, square, triangle, cross"),
        ({"include": [{"class": "cross", "count": 1, "color": "pink"}]}, "color: got 'pink', need one of red, green"),
        ({"include": [{"class": "cross", "count": 1}], "exclude": [{"class": "bus", "count": 2}]}, "class: got 'bus'"),
        ({"tag": "colors"}, "include: got None"),
    ],
)
def test_bad_prompts(metadata: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(render(()), metadata)


@pytest.mark.parametrize(
    "image", [np.zeros((32, 32), np.uint8), np.zeros((32, 32, 4), np.uint8), np.zeros((32, 32, 3))]
)
def test_bad_pictures(image: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match=r"image: got .*, need uint8"):
        detect(image)
