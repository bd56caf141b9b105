"""The catalogue is consistent in itself, and the prepared data are what it says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tenfold.core.catalogue import CATALOGUE, GROUPS
from tenfold.core.catalogue_rows import BLIMP_FILES, chosen_rows
from tenfold.core.conversions import unchanged
from tenfold.core.origins import SHIPPED, Dataset, Origin, Package, Shipped, content_sha256

ROWS = {  # evaluation set: rows chosen, rows there are
    "arc_easy": (1200, 2376),
    "arc_challenge": (600, 1172),
    "piqa": (1000, 1838),
    "openbookqa": (350, 500),
    "copa": (60, 100),
    "boolq": (600, 3270),
    "winogrande": (800, 1267),
    "lambada": (1200, 5153),
    "blimp": (6700, 67_000),
}


@pytest.mark.parametrize("dataset", CATALOGUE.values(), ids=CATALOGUE)
def test_entry(dataset: Dataset) -> None:
    assert re.fullmatch(r"[0-9a-f]{64}", dataset.sha256)
    assert dataset.size > 0
    assert dataset.what
    assert dataset.licence
    assert not Path(dataset.file).is_absolute()
    for origin in dataset.origins:
        if isinstance(origin, Origin | Package):
            assert re.fullmatch(r"[0-9a-f]{64}", origin.sha256)
            assert origin.size > 0
        if isinstance(origin, Origin):
            assert re.match(r"https://raw\.githubusercontent\.com/[^/]+/[^/]+/[0-9a-f]{40}/", origin.url)  # pinned
            assert " " not in origin.url
        elif isinstance(origin, Package):
            assert re.fullmatch(r"[A-Za-z-]+", origin.package) and re.fullmatch(r"\d+\.\d+\.\d+", origin.version)
        else:
            assert origin == Shipped(dataset.file)  # so that `data.path` finds it
    names = [origin.name for origin in dataset.origins]
    assert len(set(names)) == len(names) >= 1  # they are downloaded into one folder
    if dataset.convert is unchanged and not isinstance(dataset.origins[0], Shipped):
        (origin,) = dataset.origins
        assert isinstance(origin, Origin) and (origin.sha256, origin.size) == (dataset.sha256, dataset.size)


@pytest.mark.parametrize("name", ["shapes_train", "shapes_val", "cider_example"])
def test_what_comes_with_tenfold_is_what_the_catalogue_says(name: str) -> None:
    content = (SHIPPED / CATALOGUE[name].file).read_bytes()
    assert content_sha256(CATALOGUE[name].file, content) == CATALOGUE[name].sha256
    assert len(content) == CATALOGUE[name].size


def test_names_and_files_are_distinct() -> None:
    assert len({dataset.file for dataset in CATALOGUE.values()}) == len(CATALOGUE)
    assert not set(GROUPS) & set(CATALOGUE)
    assert {member for members in GROUPS.values() for member in members} <= set(CATALOGUE)
    assert len(GROUPS["novels"]) == 6
    assert set(GROUPS["evaluation"]) == set(ROWS)
    assert len(GROUPS["bbh"]) == 28 + 27 and set(GROUPS["bbh_smollm2"]) < set(GROUPS["bbh"])


@pytest.mark.parametrize("name", ROWS)
def test_chosen_rows(name: str) -> None:
    chosen, total = ROWS[name]
    rows = chosen_rows(name)
    assert len(rows) == len(set(rows)) == chosen
    assert rows == sorted(rows)
    assert 0 <= rows[0] <= rows[-1] < total


def test_blimp_takes_a_hundred_pairs_of_each_paradigm() -> None:
    assert len(BLIMP_FILES) == 67
    assert list(BLIMP_FILES) == sorted(BLIMP_FILES)
    counts = [0] * 67
    for row in chosen_rows("blimp"):
        counts[row // 1000] += 1
    assert counts == [100] * 67


@pytest.mark.parametrize("dataset", CATALOGUE.values(), ids=CATALOGUE)
def test_prepared_file_has_the_content_promised(dataset: Dataset, data_dir: Path) -> None:
    content = (data_dir / dataset.file).read_bytes()
    assert len(content) == dataset.size
    assert content_sha256(dataset.file, content) == dataset.sha256


@pytest.mark.parametrize("name", [name for name in ROWS if name != "blimp"])
def test_prepared_ids_are_the_chosen_rows(name: str, data_dir: Path) -> None:
    with (data_dir / CATALOGUE[name].file).open(encoding="utf-8") as file:
        assert [json.loads(line)["id"] for line in file] == [f"{name}-{row}" for row in chosen_rows(name)]
