"""GenEval's files: prompts, the layout of samples, results and rates."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tenfold.core.errors import UserError
from tenfold.vision import shapes
from tenfold.vision.geneval import (
    TASKS,
    Clause,
    TaskScore,
    clauses,
    read_metadata,
    score_folder,
    score_results,
    write_layout,
)

CIRCLE = {"tag": "single_object", "include": [{"class": "circle", "count": 1}], "prompt": "a circle"}
TWO = {
    "tag": "counting",
    "include": [{"class": "cross", "count": 2}],
    "exclude": [{"class": "cross", "count": 3}],
    "prompt": "two crosses",
}


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def pictures(n: int = 2, k: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (n, k, 5, 4, 3), dtype=np.uint8)


@dataclass(frozen=True)
class Says:
    correct: bool
    reason: str = ""
    details: dict[str, list[list[float]]] = field(default_factory=dict)


def test_the_553_prompts_of_the_benchmark(data_dir: Path, tmp_path: Path) -> None:
    path = data_dir / "01-ec-dit" / "geneval" / "evaluation_metadata.jsonl"
    rows = read_metadata(path)
    assert Counter(row["tag"] for row in rows) == dict(zip(TASKS, (80, 99, 80, 94, 100, 100), strict=True))
    folder = write_layout(tmp_path / "out", rows[::20], np.zeros((28, 1, 1, 1, 3), np.uint8), grid=False)
    lines = path.read_text().splitlines()[::20]
    assert [(folder / f"{i:05}" / "metadata.jsonl").read_text() for i in range(28)] == lines


def test_clauses_of_a_prompt() -> None:
    assert clauses(TWO) == ((Clause("cross", 2),), (Clause("cross", 3),))
    position = {"class": "dog", "count": 1, "color": "red", "position": ["right of", 0]}
    row = {"include": [{"class": "teddy bear", "count": 1, "color": None}, position], "exclude": None}
    assert clauses(row) == ((Clause("teddy bear", 1), Clause("dog", 1, "red", "right of", 0)), ())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tag": ...}, r'm\.jsonl:2: "tag" is missing; every line needs tag, include, prompt'),
        ({"include": ...}, r'm\.jsonl:2: "include" is missing'),
        ({"prompt": ...}, r'm\.jsonl:2: "prompt" is missing'),
        ({"prompt": 3}, r"m\.jsonl:2: prompt: got 3, need str"),
        ({"include": {}}, r"m\.jsonl:2: include: got {}, need list"),
        ({"include": []}, r"m\.jsonl:2: include: got \[\], need a list of conditions"),
        ({"exclude": "dog"}, r"m\.jsonl:2: exclude: got 'dog'"),
        ({"include": ["dog"]}, r"m\.jsonl:2: include\[0\]: got 'dog', need an object"),
        ({"include": [{"count": 1}]}, r"m\.jsonl:2: include\[0\]\.class: got None"),
        ({"include": [{"class": "dog"}]}, r"m\.jsonl:2: include\[0\]\.count: got None"),
        ({"include": [{"class": "dog", "count": True}]}, r"count: got True"),
        ({"exclude": [{"class": "dog", "count": 0}]}, r"exclude\[0\]\.count: got 0"),
        ({"include": [{"class": "dog", "count": 1, "color": 1}]}, r"color: got 1"),
        ({"include": [{"class": "dog", "count": 1, "position": ["near", 0]}]}, r"position: got \['near', 0\]"),
        ({"include": [{"class": "dog", "count": 1, "position": ["above", 0]}]}, "got index 0, need that of an earlier"),
    ],
)
def test_a_bad_prompt_is_named(change: Mapping[str, Any], message: str, tmp_path: Path) -> None:
    bad = {key: value for key, value in {**CIRCLE, **change}.items() if value is not ...}
    path = tmp_path / "m.jsonl"
    path.write_text(f"{json.dumps(CIRCLE)}\n{json.dumps(bad)}\n")
    with pytest.raises(UserError, match=message):
        read_metadata(path)


def test_absent_and_empty_files(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    for read in (read_metadata, score_results):
        with pytest.raises(UserError, match=r"none\.jsonl not found; need JSON Lines"):
            read(tmp_path / "none.jsonl")
        with pytest.raises(UserError, match=r"empty\.jsonl: got no lines"):
            read(tmp_path / "empty.jsonl")


def test_layout(tmp_path: Path) -> None:
    images = pictures()
    folder = write_layout(tmp_path / "deep" / "out", [CIRCLE, TWO], images)
    samples = [f"samples/{j:04}.png" for j in range(3)]
    assert files(folder) == [f"{i:05}/{name}" for i in range(2) for name in ("grid.png", "metadata.jsonl", *samples)]
    for i, row in enumerate((CIRCLE, TWO)):
        assert (folder / f"{i:05}" / "metadata.jsonl").read_bytes() == json.dumps(row).encode()
        for j, name in enumerate(samples):
            assert np.array_equal(Image.open(folder / f"{i:05}" / name), images[i, j])
    grid = np.asarray(Image.open(folder / "00000" / "grid.png"))
    assert grid.shape == (2 * 7, 2 * 6, 3)
    assert np.array_equal(grid[8:13, 1:5], images[0, 2])  # the third starts the second row
    assert not grid[7:, 6:].any() and not grid[0].any()
    assert files(write_layout(tmp_path / "bare", [CIRCLE], images[:1, :1], grid=False)) == [
        "00000/metadata.jsonl",
        "00000/samples/0000.png",
    ]


def test_a_layout_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def failing() -> Iterator[NDArray[np.uint8]]:
        yield pictures()[0]
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_layout(tmp_path / "out", [CIRCLE, TWO], failing())
    for wrong in (pictures()[:1], pictures(3), pictures().astype(np.float32), pictures()[..., :2], pictures(k=0)):
        with pytest.raises(ValueError, match=r"zip|images: got"):
            write_layout(tmp_path / "out", [CIRCLE, TWO], wrong)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="out exists already"):
        write_layout(tmp_path / "out", [CIRCLE, TWO], pictures())


def test_scores_of_a_results_file(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    lines = [f'{{"filename":"a\\/b.png","tag":"position","correct":{word}}}' for word in ("true", "false") * 2]
    lines += ['{"tag": "single_object", "correct": true}', '{"tag": "mine", "correct": false}']
    path.write_text("\n".join(lines))
    scores = score_results(path)
    assert list(scores.tasks) == ["single_object", "position", "mine"]
    assert scores.tasks["position"] == TaskScore(2, 4)
    assert scores.overall == pytest.approx((1 + 0.5 + 0) / 3)  # over tasks, not over pictures
    rate = scores.tasks["position"].rate
    # Wilson by hand: centre 1/2, half width z sqrt(1 / (4 n)) / sqrt(1 + z^2 / n)
    half = 1.959964 * 0.25 / (1 + 1.959964**2 / 4) ** 0.5
    assert (rate.value, rate.low, rate.high) == pytest.approx((0.5, 0.5 - half, 0.5 + half), abs=1e-6)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{}", 'r.jsonl:1: "tag" is missing; every line needs tag, correct'),
        ('{"tag": "position"}', 'r.jsonl:1: "correct" is missing'),
        ('{"tag": "position", "correct": 1}', "r.jsonl:1: correct: got 1, need bool"),
        ('{"tag": "position"', "r.jsonl:1: not JSON"),
    ],
)
def test_bad_results_are_named(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text(line)
    with pytest.raises(UserError, match=message):
        score_results(tmp_path / "r.jsonl")


def test_a_folder_is_judged_picture_by_picture(tmp_path: Path) -> None:
    images = pictures()
    folder = write_layout(tmp_path / "out", [CIRCLE, TWO], images)
    (folder / "00000" / "samples" / "old.png").write_bytes(b"not a sample")
    (folder / "notes").mkdir()
    seen = []

    def judge(image: NDArray[np.uint8], metadata: Mapping[str, Any]) -> Says:
        seen.append((image, metadata))
        return Says(len(seen) % 2 == 1, f"fault {len(seen)}", {"dog": [[0, 1, 2, 3, 0.9]]})

    scores = score_folder(folder, judge)
    assert scores.tasks == {"single_object": TaskScore(2, 3), "counting": TaskScore(1, 3)}
    assert np.array_equal(np.stack([image for image, _ in seen]), images.reshape(-1, 5, 4, 3))
    assert [metadata for _, metadata in seen] == [CIRCLE] * 3 + [TWO] * 3
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert list(rows[4]) == ["filename", "tag", "prompt", "correct", "reason", "metadata", "details"]
    assert rows[4] == {
        "filename": str(folder / "00001" / "samples" / "0001.png"),
        "tag": "counting",
        "prompt": "two crosses",
        "correct": True,
        "reason": "fault 5",
        "metadata": json.dumps(TWO),
        "details": '{"dog": [[0, 1, 2, 3, 0.9]]}',
    }


def test_shapes_from_prompt_to_score(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    right = [[shapes.render(shapes.sample_scene(row, rng)) for _ in range(2)] for row in (CIRCLE, TWO)]
    blank = shapes.render(())
    folder = write_layout(tmp_path / "out", [CIRCLE, TWO], [np.stack([*pair, blank]) for pair in right])
    scores = score_folder(folder, shapes.evaluate)
    assert scores.tasks == {"single_object": TaskScore(2, 3), "counting": TaskScore(2, 3)}


def test_bad_folders_are_named(tmp_path: Path) -> None:
    def judge(image: NDArray[np.uint8], metadata: Mapping[str, Any]) -> Says:
        raise ValueError("class: got 'dog'")

    with pytest.raises(UserError, match="got no pictures"):
        score_folder(tmp_path / "none", judge)
    folder = write_layout(tmp_path / "out", [CIRCLE], pictures(1))
    with pytest.raises(UserError, match=r"0000\.png: class: got 'dog'"):
        score_folder(folder, judge)
    sample = folder / "00000" / "samples" / "0000.png"
    sample.write_bytes(sample.read_bytes()[:50])
    with pytest.raises(UserError, match=r"0000\.png: cannot be read as PNG"):
        score_folder(folder, judge)
    (folder / "00000" / "metadata.jsonl").write_text(f"{json.dumps(CIRCLE)}\n" * 2)
    with pytest.raises(UserError, match=r"metadata\.jsonl: got 2 lines, need one"):
        score_folder(folder, judge)
    assert not (folder / "results.jsonl").exists()
