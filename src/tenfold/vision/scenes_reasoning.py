"""Questions over two to four scenes at once, with the steps that lead to their answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tenfold.vision.scenes import COLOURS, SHAPES, Scene, random_scene

ORDINALS = ("first", "second", "third", "fourth")
FAMILIES = ("more", "sum", "odd")


class Reasoning(NamedTuple):
    """A question over several scenes.

    Attributes:
        family: "more": which picture has more objects; "sum": how many there are in all; "odd": which picture differs in shape.
        question, answer: in lower case.
        steps: what is seen in each picture, from which the answer follows.
    """

    family: str
    question: str
    answer: str
    steps: str

    @property
    def worked(self) -> str:
        """Steps, then the answer."""
        return f"{self.steps} so {self.answer}"


def ask(family: str, scenes: Sequence[Scene]) -> Reasoning:
    """The question of a family about these scenes.

    Raises:
        ValueError: an unknown family; scenes for which the answer is not one: equal numbers ("more"), no odd one ("odd").
    """
    if not 2 <= len(scenes) <= 4:
        raise ValueError(f"scenes: got {len(scenes)}, need 2 to 4")
    counts = [len(scene) for scene in scenes]
    if family == "sum":
        return Reasoning("sum", "how many objects are there in all?", str(sum(counts)), " + ".join(map(str, counts)))
    if family == "more":
        if counts.count(max(counts)) > 1:
            raise ValueError(f"scenes: got {counts} objects, need one picture with the most")
        most = ORDINALS[counts.index(max(counts))]
        return Reasoning("more", "which picture has the most objects?", most, " , ".join(map(str, counts)))
    if family == "odd":
        shapes = [scene[0]["shape"] for scene in scenes]
        odd = [i for i, shape in enumerate(shapes) if shapes.count(shape) == 1]
        if len(odd) != 1 or len(set(shapes)) != 2:
            raise ValueError(f"scenes: got {shapes}, need one that differs from all others")
        return Reasoning("odd", "which picture has another shape?", ORDINALS[odd[0]], " , ".join(shapes))
    raise ValueError(f"family: got {family!r}, need one of {', '.join(FAMILIES)}")


def draw_scenes(family: str, rng: np.random.Generator, count: int) -> list[Scene]:
    """Scenes about which `ask` has one answer."""
    if family == "odd":
        count = max(count, 3)
        common, other = rng.choice(len(SHAPES), 2, replace=False)
        odd = int(rng.integers(count))
        return [_single(rng, SHAPES[other if i == odd else common]) for i in range(count)]
    while True:
        scenes: list[Scene] = [random_scene(rng, int(n)) for n in rng.integers(1, 5, size=count)]
        numbers = [len(scene) for scene in scenes]
        if family == "sum" or numbers.count(max(numbers)) == 1:
            return scenes


def _single(rng: np.random.Generator, shape: str) -> Scene:
    (only,) = random_scene(rng, 1)
    return [only | {"shape": shape, "colour": list(COLOURS)[rng.integers(len(COLOURS))]}]
