"""GenEval's files: prompts with their conditions, folders of samples, results and the six task rates.

The folders and results lines are those that the public scorer reads and writes; who judges a picture is up to the
caller.

Source: Ghosh et al. 2023, "GenEval: An Object-Focused Framework for Evaluating Text-to-Image Alignment",
arXiv 2310.11513.
"""

# Shape legend: K pictures of a prompt, H height, W width

from __future__ import annotations

import json
import math
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tenfold.core.atomic import sync, write_atomic
from tenfold.core.errors import UserError
from tenfold.core.statistics import Interval, wilson
from tenfold.vision.rows import read_rows

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")  # the columns of its tables
RELATIONS = ("left of", "right of", "above", "below")


@dataclass(frozen=True)
class Clause:
    """One condition of a prompt.

    Args:
        kind: the class of object.
        count: how many of it.
        color: which each must have; None for any.
        relation, target: where each must stand to all objects of the earlier clause `target`; None for anywhere.
    """

    kind: str
    count: int
    color: str | None = None
    relation: str | None = None
    target: int | None = None


class Judged(Protocol):
    """What a judge says about a picture: right or wrong, why, and the boxes (x0, y0, x1, y1, score) by class."""

    @property
    def correct(self) -> bool: ...
    @property
    def reason(self) -> str: ...
    @property
    def details(self) -> Mapping[str, Sequence[Sequence[float]]]: ...


Judge = Callable[[NDArray[np.uint8], Mapping[str, Any]], Judged]  # picture (H, W, 3), metadata


@dataclass(frozen=True)
class TaskScore:
    """How many pictures of a task are right."""

    correct: int
    images: int

    @property
    def rate(self) -> Interval:
        """The share with Wilson's 95 % interval, which takes the pictures of one prompt as independent."""
        return wilson(self.correct, self.images)


@dataclass(frozen=True)
class Scores:
    """The score of each task, in the order of `TASKS`; other tags come after them."""

    tasks: dict[str, TaskScore]

    @property
    def overall(self) -> float:
        """The unweighted mean of the task rates: GenEval's overall score."""
        return sum(task.correct / task.images for task in self.tasks.values()) / len(self.tasks)


def clauses(metadata: Mapping[str, Any]) -> tuple[tuple[Clause, ...], tuple[Clause, ...]]:
    """The conditions of a prompt: what must be there, and what must not (fewer than `count` of the class).

    Raises:
        ValueError: a key that is missing or of another kind, named.
    """
    include, exclude = metadata.get("include"), metadata.get("exclude")
    exclude = [] if exclude is None else exclude
    if not isinstance(include, list) or not include:
        raise ValueError(f"include: got {include!r}, need a list of conditions")
    if not isinstance(exclude, list):
        raise ValueError(f"exclude: got {exclude!r}, need a list of conditions")
    return (
        tuple(_clause(row, f"include[{i}]", earlier=i) for i, row in enumerate(include)),
        tuple(_clause(row, f"exclude[{i}]", earlier=0) for i, row in enumerate(exclude)),
    )


def read_metadata(path: str | Path) -> list[dict[str, Any]]:
    """Read prompts: JSON Lines with tag, include and prompt; exclude may be there.

    Returns:
        The lines as they are, in order, each checked.
    Raises:
        UserError: absent, empty, or a bad line, named as file:line with the key.
    """
    rows = []
    for where, row in read_rows(Path(path), {"tag": str, "include": list, "prompt": str}):
        try:
            clauses(row)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from None
        rows.append(row)
    return rows


def write_layout(
    folder: str | Path,
    metadata: Sequence[Mapping[str, Any]],
    images: Iterable[NDArray[np.uint8]],
    *,
    grid: bool = True,
) -> Path:
    """Write pictures as GenEval's scorer reads them: 00000/metadata.jsonl, 00000/samples/0000.png, 00000/grid.png.

    The folder appears at the end, whole, or not at all.

    Args:
        folder: a new one.
        metadata: of N prompts, in order.
        images: N arrays (K, H, W, 3) uint8, or one (N, K, H, W, 3); an iterator is drawn from one prompt at a time.
        grid: also write all pictures of a prompt as one.
    Returns:
        The folder.
    Raises:
        UserError: the folder exists.
        ValueError: other shapes or types, or not one array a prompt.
    """
    folder = Path(folder)
    if folder.exists():
        raise UserError(f"{folder} exists already; give another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.tmp")
    staging.mkdir()
    try:
        for index, (row, pictures_KHW3) in enumerate(zip(metadata, images, strict=True)):
            _write_prompt(staging / f"{index:05}", row, pictures_KHW3, grid)
        for path in (*staging.rglob("*"), staging):  # at once: one by one, each would wait for the disk
            sync(path)
        staging.rename(folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    sync(folder.parent)
    return folder


def score_folder(folder: str | Path, judge: Judge, *, final: str | Path | None = None) -> Scores:
    """Judge every picture of a layout, write `results.jsonl` into its folder and count.

    Args:
        folder: as `write_layout` or GenEval's own generator made it.
        judge: such as `tenfold.vision.shapes.evaluate`.
        final: the folder's name in the results, where it will be renamed; None is the folder itself.
    Raises:
        UserError: no pictures, or a file that cannot be read.
    """
    folder = Path(folder)
    lines = []
    for prompt in sorted(path for path in folder.glob("*") if path.is_dir() and path.name.isdigit()):
        rows = read_metadata(prompt / "metadata.jsonl")
        if len(rows) != 1:
            raise UserError(f"{prompt / 'metadata.jsonl'}: got {len(rows)} lines, need one")
        samples = (path for path in (prompt / "samples").glob("*.png") if re.fullmatch(r"\d+\.png", path.name))
        for sample in sorted(samples):
            shown = Path(folder if final is None else final) / sample.relative_to(folder)
            lines.append(json.dumps({"filename": str(shown)} | _result(sample, rows[0], judge)))
    if not lines:
        raise UserError(f"{folder}: got no pictures, need 00000/metadata.jsonl, 00000/samples/0000.png, …")
    results = folder / "results.jsonl"
    write_atomic(results, "\n".join(lines) + "\n")
    return score_results(results)


def score_results(path: str | Path) -> Scores:
    """Count the results of GenEval's scorer or ours: JSON Lines with tag and correct, one line a picture.

    Raises:
        UserError: absent, empty, or a bad line, named as file:line with the key.
    """
    correct: dict[str, list[bool]] = {}
    for _, row in read_rows(Path(path), {"tag": str, "correct": bool}):
        correct.setdefault(row["tag"], []).append(row["correct"])
    order = [*(tag for tag in TASKS if tag in correct), *(tag for tag in correct if tag not in TASKS)]
    return Scores({tag: TaskScore(sum(correct[tag]), len(correct[tag])) for tag in order})


def _clause(row: Any, where: str, earlier: int) -> Clause:
    if not isinstance(row, dict):
        raise ValueError(f"{where}: got {row!r}, need an object with class and count")
    kind, count, color, position = (row.get(key) for key in ("class", "count", "color", "position"))
    if not isinstance(kind, str):
        raise ValueError(f"{where}.class: got {kind!r}, need a text")
    if type(count) is not int or count < 1:
        raise ValueError(f"{where}.count: got {count!r}, need an integer of at least 1")
    if not isinstance(color, str | None):
        raise ValueError(f"{where}.color: got {color!r}, need a text")
    if position is None:
        return Clause(kind, count, color)
    if not isinstance(position, list) or len(position) != 2 or position[0] not in RELATIONS:
        raise ValueError(f"{where}.position: got {position!r}, need one of {', '.join(RELATIONS)}, and an index")
    if type(position[1]) is not int or not 0 <= position[1] < earlier:
        raise ValueError(f"{where}.position: got index {position[1]!r}, need that of an earlier condition")
    return Clause(kind, count, color, *position)


def _write_prompt(folder: Path, row: Mapping[str, Any], pictures_KHW3: NDArray[np.uint8], grid: bool) -> None:
    from PIL import Image

    if (
        pictures_KHW3.ndim != 4
        or pictures_KHW3.shape[-1] != 3
        or pictures_KHW3.dtype != np.uint8
        or not pictures_KHW3.size
    ):
        raise ValueError(f"images: got {pictures_KHW3.dtype} {pictures_KHW3.shape}, need uint8 (K, H, W, 3)")
    samples = folder / "samples"
    samples.mkdir(parents=True)
    (folder / "metadata.jsonl").write_text(json.dumps(row), encoding="utf-8")  # the scorer wants one JSON text
    for index, picture in enumerate(pictures_KHW3):
        Image.fromarray(picture).save(samples / f"{index:04}.png")
    if grid:
        Image.fromarray(_tiled(pictures_KHW3)).save(folder / "grid.png")


def _tiled(pictures_KHW3: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """All pictures in a near-square grid, row by row, with a black line of one pixel around each."""
    count, height, width, _ = pictures_KHW3.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    framed = np.pad(pictures_KHW3, ((0, rows * columns - count), (1, 1), (1, 1), (0, 0)))
    tiles = framed.reshape(rows, columns, height + 2, width + 2, 3).swapaxes(1, 2)
    return tiles.reshape(rows * (height + 2), columns * (width + 2), 3)


def _read_image(path: Path) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG",)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot be read as PNG ({error}); write it again") from error


def _result(sample: Path, row: Mapping[str, Any], judge: Judge) -> dict[str, Any]:
    """One line of the results, with the keys of the public scorer."""
    image_HW3 = _read_image(sample)
    try:
        judged = judge(image_HW3, row)
    except ValueError as error:
        raise UserError(f"{sample}: {error}") from error
    return {
        "tag": row["tag"],
        "prompt": row["prompt"],
        "correct": judged.correct,
        "reason": judged.reason,
        "metadata": json.dumps(row),
        "details": json.dumps(judged.details),
    }
