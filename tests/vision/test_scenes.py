"""Scenes: the renderer to the pixel, questions against a count by hand, held signs, reasoning over several."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tenfold.vision.scenes import (
    COLOURS,
    caption,
    random_scene,
    random_sign,
    render_scene,
    render_sign,
    scene_questions,
)
from tenfold.vision.scenes_reasoning import FAMILIES, ask, draw_scenes

SCENE = [
    {"shape": "square", "colour": "red", "size": "large", "row": 0, "col": 0},
    {"shape": "circle", "colour": "blue", "size": "small", "row": 1, "col": 2},
    {"shape": "circle", "colour": "blue", "size": "large", "row": 2, "col": 2},
]


def test_a_square_fills_its_cell_as_defined() -> None:
    image = render_scene(SCENE, 96)
    assert image.shape == (96, 96, 3) and image.dtype == np.uint8
    # Cell of 32, centre 16, half-width 0.35 · 32 = 11.2: pixels 5 to 26 are inside.
    assert tuple(image[16, 16]) == COLOURS["red"] == tuple(image[6, 6])
    assert tuple(image[3, 16]) == tuple(image[29, 16]) == (255, 255, 255)
    assert tuple(image[48, 80]) == COLOURS["blue"] and tuple(image[48, 48]) == (255, 255, 255)
    share = ((255 - image[:32, :32, 1].astype(float)) / (255 - COLOURS["red"][1])).mean()
    assert share == pytest.approx((22.4 / 32) ** 2, abs=0.02)


def test_questions_are_those_that_the_scene_answers() -> None:
    found = {(q.family, q.question): q.answer for q in scene_questions(SCENE)}
    assert found["count", "how many blue circles are there?"] == "2"
    assert found["count", "how many red circles are there?"] == "0"
    assert found["total", "how many objects are there?"] == "3"
    assert found["exist", "is there a red square?"] == "yes"
    assert found["colour", "what colour is the square?"] == "red"
    assert ("colour", "what colour is the circle?") not in found
    assert found["shape", "what shape is red?"] == "square" and ("shape", "what shape is blue?") not in found
    assert found["position", "what is in the middle right?"] == "blue circle"
    assert found["position", "what is in the top centre?"] == "nothing"
    assert Counter(q.family for q in scene_questions(SCENE)) == {"count": 24, "total": 1, "exist": 24, "colour": 1, "shape": 1, "position": 9}  # fmt: skip
    assert caption(SCENE).startswith("a large red square and a small blue circle")


def test_random_scenes_are_reproducible_and_valid() -> None:
    scenes = [random_scene(np.random.default_rng(seed)) for seed in range(300)]
    assert scenes == [random_scene(np.random.default_rng(seed)) for seed in range(300)]
    assert {len(scene) for scene in scenes} == {1, 2, 3, 4, 5, 6}
    for scene in scenes[:20]:
        render_scene(scene, 24)


def test_a_sign_lies_inside_and_shrinks() -> None:
    for seed in range(20):
        sign = random_sign(np.random.default_rng(seed))
        image = render_sign(**sign)
        ink = np.argwhere((image < 200).any(-1))
        assert len(ink) > 20 and image.shape == (96, 96, 3)
    assert render_sign(**sign, size=48).shape == (48, 48, 3)
    corner = np.argwhere((render_sign("AVY", "red", 1.0, 1.0) < 128).any(-1))
    assert corner.max() >= 92


@pytest.mark.parametrize("family", FAMILIES)
def test_reasoning_follows_from_the_scenes_and_their_order(family: str) -> None:
    rng = np.random.default_rng(0)
    for count in (2, 3, 4):
        scenes = draw_scenes(family, rng, count)
        asked, swapped = ask(family, scenes), ask(family, scenes[::-1])
        if family == "sum":
            assert asked.answer == swapped.answer == str(sum(map(len, scenes)))
        else:
            assert asked.answer != swapped.answer or len(scenes) % 2
        assert asked.worked.endswith(f"so {asked.answer}")


def test_what_cannot_be_drawn_is_named() -> None:
    with pytest.raises(ValueError, match="colour: got 'pink'"):
        render_scene([SCENE[0] | {"colour": "pink"}], 24)
    with pytest.raises(ValueError, match="2 in 1 cells"):
        render_scene([SCENE[0], SCENE[0]], 24)
