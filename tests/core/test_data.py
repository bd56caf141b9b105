"""Where data are found, and how they come from their origins; the network is a server on the loopback."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tenfold.core import data
from tenfold.core.catalogue import CATALOGUE
from tenfold.core.conversions import first_lines, gzipped, unchanged
from tenfold.core.errors import UserError
from tenfold.core.origins import SHIPPED, Dataset, Origin, Shipped

TEXT = b"one\ntwo\nthree\n"


class Quiet(http.server.SimpleHTTPRequestHandler):
    requests: list[str]

    def do_GET(self) -> None:
        self.requests.append(self.path)
        super().do_GET()

    def log_message(self, *args: Any) -> None:
        pass


@dataclasses.dataclass
class World:
    """A small catalogue whose origins lie in `origin`, and an empty cache."""

    origin: Path
    cache: Path
    requests: list[str]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    origin, requests = tmp_path / "origin" / "owner" / "repository", []
    origin.mkdir(parents=True)
    (origin / "text.txt").write_bytes(TEXT)
    Quiet.requests = requests
    handler = partial(Quiet, directory=str(tmp_path / "origin"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/owner/repository/text.txt"
    source = Origin(url, hashlib.sha256(TEXT).hexdigest(), len(TEXT))

    def dataset(name: str, file: str, convert: Any, content: bytes) -> Dataset:
        sha256 = hashlib.sha256(content).hexdigest()
        return Dataset(name, f"what {name} is", "MIT", file, len(content), sha256, convert, (source,))

    entries = [
        dataset("whole", "room/text/whole.txt", unchanged, TEXT),
        dataset("head", "room/head.txt.gz", gzipped(first_lines(2)), b"one\ntwo\n"),
        dataset("wrong", "other/wrong.txt", unchanged, b"something else"),
    ]
    catalogue = {entry.name: entry for entry in entries}
    monkeypatch.setattr(data, "CATALOGUE", catalogue)
    monkeypatch.setattr(data, "GROUPS", {"both": ("whole", "head")})
    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TENFOLD_DATA", raising=False)
    yield World(origin, tmp_path / "cache", requests)
    server.shutdown()
    server.server_close()


def test_absent_names_places_and_command(world: World) -> None:
    with pytest.raises(UserError) as caught:
        data.path("whole")
    places = f"(looked in {world.cache / 'data'})"
    assert str(caught.value) == f"data not found: whole {places}; get it: tenfold data get whole"


def test_get_then_path(world: World) -> None:
    place = data.get("whole")
    assert place == world.cache / "data/room/text/whole.txt"
    assert place.read_bytes() == TEXT
    assert data.path("whole") == data.path("room/text/whole.txt") == place
    assert not (world.cache / "downloads/whole").exists()


def test_get_fetches_once_unless_forced(world: World) -> None:
    data.get("whole")
    data.get("whole")
    assert len(world.requests) == 1
    data.get("whole", force=True)
    assert len(world.requests) == 2


def test_packed_file_holds_the_converted_content(world: World) -> None:
    assert gzip.decompress(data.get("head").read_bytes()) == b"one\ntwo\n"


def test_groups_and_folders(world: World) -> None:
    with pytest.raises(UserError, match="data not found: both"):
        data.path("both")
    data.get("whole")
    with pytest.raises(UserError, match="data not found: room"):  # half of it is not it
        data.path("room")
    assert data.get("both") == data.path("both") == data.path("room") == world.cache / "data/room"
    assert data.path("room/text") == world.cache / "data/room/text"
    assert data.get("room/text") == world.cache / "data/room/text"
    assert len(world.requests) == 2


def test_prepared_folder_comes_first(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data.get("whole")
    prepared = tmp_path / "prepared"
    (prepared / "room/text").mkdir(parents=True)
    monkeypatch.setenv("TENFOLD_DATA", str(prepared))
    assert data.path("whole").is_relative_to(world.cache)
    (prepared / "room/text/whole.txt").write_bytes(TEXT)
    assert data.path("whole") == data.get("whole") == prepared / "room/text/whole.txt"
    with pytest.raises(UserError, match=rf"looked in {prepared} and {world.cache / 'data'}\)"):
        data.path("head")


def test_file_outside_the_catalogue(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENFOLD_DATA", str(tmp_path))
    (tmp_path / "mine.jsonl").write_text("{}\n")
    assert data.path("mine.jsonl") == tmp_path / "mine.jsonl"
    with pytest.raises(UserError, match=r"data not found: yours.jsonl \(.*\); see tenfold data list"):
        data.path("yours.jsonl")


def test_wrong_prepared_folder_is_said(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENFOLD_DATA", "/no/such/folder")
    with pytest.raises(UserError, match="TENFOLD_DATA: got /no/such/folder, need an existing folder"):
        data.path("whole")


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "", "a/../../b"])
def test_names_stay_below_the_data_folder(world: World, name: str) -> None:
    with pytest.raises(UserError, match="data name: got"):
        data.path(name)


def test_unknown_name_lists_the_known(world: World) -> None:
    with pytest.raises(
        UserError, match=r"unknown data set 'whol' \(did you mean whole\?\); known: whole, head, .*both"
    ):
        data.get("whol")


def test_changed_origin_leaves_nothing(world: World) -> None:
    (world.origin / "text.txt").write_bytes(TEXT.upper())
    with pytest.raises(UserError, match="wrong content"):
        data.get("whole")
    assert not (world.cache / "data/room/text/whole.txt").exists()
    (world.origin / "text.txt").write_bytes(TEXT)
    assert data.get("whole").read_bytes() == TEXT


def test_conversion_that_gives_other_content_is_our_fault(world: World) -> None:
    with pytest.raises(RuntimeError, match="wrong: conversion gave SHA-256"):
        data.get("wrong")
    assert not (world.cache / "data/other/wrong.txt").exists()


def test_unwritable_cache(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot write .*; set TENFOLD_CACHE to a folder you own"):
        data.get("whole")


def test_callers_at_once_fetch_once(world: World) -> None:
    callers = [threading.Thread(target=data.get, args=("whole",)) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert data.path("whole").read_bytes() == TEXT
    assert len(world.requests) == 1


def test_list(world: World) -> None:
    data.get("head")
    rows = data.list_datasets()
    assert [(row.name, row.present) for row in rows] == [("whole", False), ("head", True), ("wrong", False)]
    assert rows[0] == data.DatasetInfo("whole", "what whole is", "14 B", "MIT", "github.com/owner/repository", False)


def test_real_catalogue_is_listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path))
    monkeypatch.delenv("TENFOLD_DATA", raising=False)
    rows = {row.name: row for row in data.list_datasets()}
    assert set(rows) == set(CATALOGUE)
    here = {"shapes_train", "shapes_val", "taboo_lexicon", "cider_example"}
    assert {name for name, row in rows.items() if row.present} == here
    assert rows["shapes_val"].source == "comes with tenfold"
    assert rows["emoji_names"].source == "npm emoji-datasource-google 16.0.0"
    assert rows["shakespeare"].size == "1.1 MB"
    assert rows["shakespeare"].source == "github.com/karpathy/char-rnn"


def test_what_comes_with_tenfold_is_found_without_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path))
    monkeypatch.delenv("TENFOLD_DATA", raising=False)
    file = "01-ec-dit/shapes/prompts_val.jsonl"
    assert data.path("shapes_val") == data.path(file) == data.get("shapes_val") == SHIPPED / file
    assert data.path("shapes") == data.path("01-ec-dit/shapes") == SHIPPED / "01-ec-dit/shapes"
    with pytest.raises(UserError, match="data not found: 01-ec-dit"):  # the rest of the folder is not here
        data.path("01-ec-dit")
    assert data.get("shapes_val", force=True) == tmp_path / "data" / file
    assert data.path("shapes_val").read_bytes() == (SHIPPED / file).read_bytes()


def test_a_folder_in_part_shipped_comes_whole(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    file = CATALOGUE["shapes_val"].file
    shipped = dataclasses.replace(CATALOGUE["shapes_val"], origins=(Shipped(file),))
    fetched = dataclasses.replace(data.CATALOGUE["whole"], file="01-ec-dit/whole.txt")
    monkeypatch.setattr(data, "CATALOGUE", {"shipped": shipped, "fetched": fetched})
    folder = data.get("01-ec-dit")
    assert folder == data.path("01-ec-dit") == world.cache / "data/01-ec-dit"
    assert (folder / "whole.txt").read_bytes() == TEXT
    assert (world.cache / "data" / file).is_file()


def test_prepared_data_are_found(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENFOLD_DATA", str(data_dir))
    assert all(row.present for row in data.list_datasets())
    assert data.path("evaluation") == data_dir / "05-moe-vs-dense"
    assert data.get("novels") == data_dir / "02-afm/text"


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (269_060_552, "269.1 MB"), (2e12, "2000.0 GB")]
)
def test_human_size(size: float, text: str) -> None:
    assert data.human_size(size) == text
