"""The check of the shapes world: which shapes a picture shows, and whether they are those of its prompt."""

# Shape legend: H height, W width, C colours, S stencils, K side of a stencil, P places

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenfold.vision.geneval import Clause
from tenfold.vision.shapes_world import (
    BACKGROUND,
    KINDS,
    PALETTE,
    RADII,
    Box,
    box_around,
    conditions,
    relation,
    stencil,
)

MIN_IOU = 0.75  # lower lets half shapes and blobs pass, higher drops slightly blurred ones
MIN_CONTRAST = 80  # distance to the background in RGB, from which a pixel belongs to an object

_REACH = max(RADII)
_WINDOW = 2 * _REACH + 1
_STENCILS = [(kind, r) for kind in KINDS for r in RADII]
_STENCIL_SKK = np.stack([np.pad(stencil(kind, r), _REACH - r) for kind, r in _STENCILS]).astype(np.float32)
_AREA_S = _STENCIL_SKK.sum(axis=(1, 2))
_COLORS = list(PALETTE)
_COLORS_C3 = np.array(list(PALETTE.values()), dtype=np.int32)
_NEIGHBOURS_CHW = np.zeros((3, 3, 3), dtype=bool)  # of one colour: left, right, above, below
_NEIGHBOURS_CHW[1, 1, :] = _NEIGHBOURS_CHW[1, :, 1] = True


@dataclass(frozen=True)
class Detection:
    """A shape found in a picture.

    Args:
        kind, color: as in `Shape`.
        box: of the best stencil.
        score: its overlap with the pixels of the object, intersection over union, in [0.75, 1].
        center: x, y.
    """

    kind: str
    color: str
    box: Box
    score: float
    center: tuple[int, int]


@dataclass(frozen=True)
class Verdict:
    """Whether a picture shows what its prompt asks for; one line a fault; everything found."""

    correct: bool
    reason: str
    detections: tuple[Detection, ...]

    @property
    def details(self) -> dict[str, list[list[float]]]:
        """The boxes with their scores by class, as GenEval's results hold them."""
        found: dict[str, list[list[float]]] = {}
        for one in self.detections:
            found.setdefault(one.kind, []).append([*one.box, one.score])
        return found


def detect(image: NDArray[np.uint8]) -> list[Detection]:
    """Find the shapes of a picture.

    Each pixel far enough from the background takes the nearest colour; each 4-connected piece of one colour is laid
    on every stencil at every place, and counts as the kind of the best one if they overlap well.

    Args:
        image: RGB picture (H, W, 3).
    Returns:
        The shapes, best overlap first; equal ones in reading order of their boxes.
    Raises:
        ValueError: another shape or type.
    """
    from scipy import ndimage  # slow to import; drawing does not need it

    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image: got {image.dtype} {image.shape}, need uint8 (H, W, 3)")
    pixels_HW3 = image.astype(np.int32)
    nearest_HW = ((pixels_HW3[:, :, None] - _COLORS_C3) ** 2).sum(axis=3).argmin(axis=2)
    nearest_HW[((pixels_HW3 - BACKGROUND) ** 2).sum(axis=2) <= MIN_CONTRAST**2] = -1
    pieces_CHW, _ = ndimage.label(nearest_HW == np.arange(len(_COLORS))[:, None, None], _NEIGHBOURS_CHW)
    areas = np.bincount(pieces_CHW.ravel())
    # No overlap exceeds the ratio of both areas: this drops most pieces, all those below 31 pixels among them.
    fits = (np.minimum(areas[:, None], _AREA_S) >= MIN_IOU * np.maximum(areas[:, None], _AREA_S)).any(axis=1)
    found = []
    for label, place in enumerate(ndimage.find_objects(pieces_CHW), start=1):
        if fits[label] and (match := _best_stencil((pieces_CHW[place] == label)[0])):
            score, (kind, r), x, y = match
            color, x, y = _COLORS[place[0].start], x + place[2].start, y + place[1].start
            found.append(Detection(kind, color, box_around(x, y, r), score, (x, y)))
    return sorted(found, key=lambda one: (-one.score, one.box[1], one.box[0]))


def evaluate(image: NDArray[np.uint8], metadata: Mapping[str, Any]) -> Verdict:
    """Judge a picture by GenEval's rules.

    Of each class asked for, the best `count` detections must exist, all have the colour asked for, and stand as asked
    to all those that an earlier condition matched; of a class excluded there must be fewer than `count`.

    Args:
        image: RGB picture (H, W, 3).
        metadata: the prompt's, in GenEval's form.
    Raises:
        ValueError: a bad prompt, an unknown class or colour, or a bad picture.
    Source: Ghosh et al. 2023, GenEval.
    """
    include, exclude = conditions(metadata)
    detections = detect(image)
    by_kind = {kind: [one for one in detections if one.kind == kind] for kind in KINDS}
    faults: list[str] = []
    matched: list[list[Detection]] = []  # empty where a condition failed
    for clause in include:
        best = by_kind[clause.kind][: clause.count]
        fault = _fault(clause, best, matched)
        matched.append([] if fault else best)
        faults += [fault] if fault else []
    for clause in exclude:
        if (count := len(by_kind[clause.kind])) >= clause.count:
            faults.append(f"{clause.kind}: found {count}, need fewer than {clause.count}")
    return Verdict(not faults, "\n".join(faults), tuple(detections))


def _fault(clause: Clause, best: Sequence[Detection], matched: Sequence[Sequence[Detection]]) -> str | None:
    """What is wrong with the best detections of a class, if anything."""
    if len(best) < clause.count:
        return f"{clause.kind}: found {len(best)}, need {clause.count}"
    if clause.color is not None and any(one.color != clause.color for one in best):
        return f"{clause.kind}: found {', '.join(one.color for one in best)}, need {clause.color}"
    if clause.relation is None or clause.target is None:
        return None
    if not matched[clause.target]:
        return f"{clause.kind}: nothing to be {clause.relation}"
    for one in best:
        for other in matched[clause.target]:
            if clause.relation not in (relations := relation(one, other)):
                return f"{clause.kind}: found {' and '.join(relations) or 'no relation'}, need {clause.relation}"
    return None


def _best_stencil(piece_HW: NDArray[np.bool_]) -> tuple[float, tuple[str, int], int, int] | None:
    """The stencil with the best overlap over all places, and its centre: score, (kind, r), x, y; None below `MIN_IOU`.

    Of equals the first stands, in the order of `KINDS`, radii and reading.
    """
    area = np.count_nonzero(piece_HW)
    padded = np.pad(piece_HW, 2 * _REACH).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (_WINDOW, _WINDOW))
    rows, columns = windows.shape[:2]
    overlap_SP = _STENCIL_SKK.reshape(len(_STENCILS), -1) @ windows.reshape(rows * columns, -1).T
    iou_SP = overlap_SP.astype(np.float64) / (area + _AREA_S[:, None] - overlap_SP)
    best, place = np.unravel_index(iou_SP.argmax(), iou_SP.shape)
    if (score := float(iou_SP[best, place])) < MIN_IOU:
        return None
    y, x = divmod(int(place), columns)
    return score, _STENCILS[best], x - _REACH, y - _REACH
