"""Scenes of prompts and their pictures."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tenfold.vision import shapes
from tenfold.vision.geneval import clauses, read_metadata
from tenfold.vision.shapes import Shape, relation, render, sample_scene
from tenfold.vision.shapes_world import BACKGROUND, PALETTE, RADII, stencil


def prompt(*include: dict[str, Any]) -> dict[str, Any]:
    return {"include": [{"count": 1, **clause} for clause in include]}


def test_render_by_hand() -> None:
    image = render((Shape("triangle", "red", 8, 9, 4), Shape("square", "cyan", 20, 21, 5)))
    expected = np.full((32, 32, 3), BACKGROUND, dtype=np.uint8)
    for step in range(9):  # the row at y = 5 + step is |x - 8| <= step // 2
        expected[5 + step, 8 - step // 2 : 9 + step // 2] = PALETTE["red"]
    expected[17:26, 16:25] = PALETTE["cyan"]
    assert image.dtype == np.uint8
    assert np.array_equal(image, expected)


def test_later_shapes_cover_and_the_canvas_cuts() -> None:
    image = render(
        (Shape("square", "red", 16, 16, 5), Shape("square", "blue", 16, 16, 4), Shape("cross", "green", 0, 31, 4))
    )
    count = Counter(map(tuple, image.reshape(-1, 3).tolist()))
    assert count[PALETTE["blue"]] == 49
    assert count[PALETTE["red"]] == 81 - 49
    assert count[PALETTE["green"]] == stencil("cross", 4)[:5, 4:].sum()


@pytest.mark.parametrize("name", ["prompts_train", "prompts_val"])
def test_scenes_keep_the_rules(data_dir: Path, name: str) -> None:
    rng = np.random.default_rng(1)
    for row in read_metadata(data_dir / "01-ec-dit" / "shapes" / f"{name}.jsonl"):
        include, _ = clauses(row)
        scene = sample_scene(row, rng)
        groups = [clause for clause in include for _ in range(clause.count)]
        assert [shape.kind for shape in scene] == [clause.kind for clause in groups]
        assert all(clause.color in (None, shape.color) for shape, clause in zip(scene, groups, strict=True))
        assert all(shape.r + 1 <= at < 32 - shape.r - 1 for shape in scene for at in (shape.x, shape.y))
        assert all(max(abs(a.x - b.x), abs(a.y - b.y)) > a.r + b.r + 1 for a, b in combinations(scene, 2))
        if include[-1].relation is not None:
            assert relation(scene[1], scene[0]) == (include[-1].relation,)


def test_a_relation_holds_between_all_of_both_groups() -> None:
    row = prompt({"class": "cross", "count": 2}, {"class": "circle", "count": 2, "position": ["below", 0]})
    scene = sample_scene(row, np.random.default_rng(0))
    assert [relation(a, b) for a in scene[2:] for b in scene[:2]] == [("below",)] * 4


def test_scenes_are_uniform() -> None:
    rng = np.random.default_rng(0)
    scenes = [sample_scene(prompt({"class": "circle"}), rng)[0] for _ in range(6000)]
    for values, expected in (
        ([scene.color for scene in scenes], dict.fromkeys(PALETTE, 1 / 6)),
        ([scene.r for scene in scenes], dict.fromkeys(RADII, 1 / 2)),
        ([scene.x for scene in scenes if scene.r == 4], dict.fromkeys(range(5, 27), 1 / 22)),
        ([scene.y for scene in scenes if scene.r == 5], dict.fromkeys(range(6, 26), 1 / 20)),
    ):
        count = Counter(values)
        assert count.keys() == expected.keys()
        for value, share in expected.items():
            assert abs(count[value] / len(values) - share) < 5 * (share / len(values)) ** 0.5


def test_a_scene_depends_on_the_generator_alone() -> None:
    row = prompt({"class": "cross", "count": 3}, {"class": "circle", "color": "red"})
    first, second = (
        [sample_scene(row, rng) for _ in range(4)] for rng in (np.random.default_rng(5), np.random.default_rng(5))
    )
    assert first == second
    assert len(set(first)) == 4


def test_five_shapes_still_fit() -> None:
    row = prompt({"class": "circle", "count": 5})
    assert len(sample_scene(row, np.random.default_rng(0))) == 5


@pytest.mark.parametrize("count", [6, 10**12])
def test_too_many_shapes(count: int) -> None:
    with pytest.raises(ValueError, match=f"include: got {count} objects, need at most 5"):
        sample_scene(prompt({"class": "circle", "count": count}), np.random.default_rng(0))


def test_the_search_for_a_scene_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "MAX_DRAWS", 1 << 12)
    row = prompt({"class": "circle", "count": 3}, {"class": "cross", "count": 2, "position": ["left of", 0]})
    with pytest.raises(ValueError, match=r"include: got .*, no scene fulfils it in 4096 draws"):
        sample_scene(row, np.random.default_rng(0))


def test_a_bad_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="class: got 'dog'"):
        sample_scene(prompt({"class": "dog"}), np.random.default_rng(0))
    with pytest.raises(ValueError, match="include: got None"):
        sample_scene({}, np.random.default_rng(0))
