"""Scenes of the shapes world that a prompt asks for, and their pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenfold.vision.geneval import Clause
from tenfold.vision.shapes_check import Detection, Verdict, detect, evaluate
from tenfold.vision.shapes_world import BACKGROUND, PALETTE, RADII, SIZE, Scene, Shape, conditions, relation, stencil

__all__ = ["Detection", "Scene", "Shape", "Verdict", "detect", "evaluate", "relation", "render", "sample_scene"]

MAX_OBJECTS = 5  # six keep their distance in one draw of some 30 million
MAX_DRAWS = 1 << 20


def render(scene: Sequence[Shape]) -> NDArray[np.uint8]:
    """Draw a scene: plain colours, no antialiasing; later shapes cover earlier ones.

    Args:
        scene: what reaches beyond the canvas is cut off.
    Returns:
        RGB picture (32, 32, 3).
    """
    image = np.full((SIZE, SIZE, 3), BACKGROUND, dtype=np.uint8)
    for shape in scene:
        y, x = np.nonzero(stencil(shape.kind, shape.r))
        y, x = y + shape.y - shape.r, x + shape.x - shape.r
        inside = (y >= 0) & (y < SIZE) & (x >= 0) & (x < SIZE)
        image[y[inside], x[inside]] = PALETTE[shape.color]
    return image


def sample_scene(metadata: Mapping[str, Any], rng: np.random.Generator) -> Scene:
    """Draw a scene that fulfils a prompt.

    Sizes, centres and the colours left open are uniform. The centres of two shapes are more than r_a + r_b + 1 pixels
    apart on one axis, and the relation that a prompt asks for is the only one of its pair: a scene that fails is drawn
    anew as a whole.

    Args:
        metadata: the prompt's, in GenEval's form.
        rng: the only source of chance.
    Returns:
        The shapes, in the order of the conditions.
    Raises:
        ValueError: a bad prompt, an unknown class or colour, more than five objects, or a prompt without a scene.
    """
    include, _ = conditions(metadata)
    if (n := sum(clause.count for clause in include)) > MAX_OBJECTS:
        raise ValueError(f"include: got {n} objects, need at most {MAX_OBJECTS} (more hardly fit on the canvas)")
    groups = [group for group, clause in enumerate(include) for _ in range(clause.count)]
    first, second = np.triu_indices(n, k=1)
    block = 4**n  # scenes drawn at once, about as many as hold one that keeps its distances
    for _ in range(MAX_DRAWS // block):
        r = rng.integers(RADII[0], RADII[-1] + 1, size=(block, n))
        x, y = rng.integers(r + 1, SIZE - r - 1, size=(2, block, n))
        gap = np.maximum(abs(x[:, first] - x[:, second]), abs(y[:, first] - y[:, second]))
        for i in np.flatnonzero((gap > r[:, first] + r[:, second] + 1).all(axis=1)):
            colors = [include[group].color or str(rng.choice(list(PALETTE))) for group in groups]
            places = zip(x[i].tolist(), y[i].tolist(), r[i].tolist(), strict=True)
            scene = tuple(
                Shape(include[group].kind, color, *place)
                for group, color, place in zip(groups, colors, places, strict=True)
            )
            if _in_position(scene, groups, include):
                return scene
    raise ValueError(f"include: got {metadata['include']!r}, no scene fulfils it in {MAX_DRAWS} draws")


def _in_position(scene: Scene, groups: Sequence[int], include: Sequence[Clause]) -> bool:
    """Whether each relation asked for is the only one of every pair that it speaks of."""
    return all(
        relation(a, b) == (include[own].relation,)
        for a, own in zip(scene, groups, strict=True)
        for b, other in zip(scene, groups, strict=True)
        if other == include[own].target
    )
