"""Where data files are, and how they come: the prepared folder, the cache, tenfold itself, or the public origins.

`TENFOLD_DATA` names a folder of data files laid out as in the catalogue; `TENFOLD_CACHE` (default
`~/.cache/tenfold`) is where fetched data are kept, in the same layout below `data/`. A few small files come with
tenfold.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from filelock import FileLock

from tenfold.core.atomic import write_atomic
from tenfold.core.catalogue import CATALOGUE, GROUPS
from tenfold.core.config import did_you_mean
from tenfold.core.download import disk_faults
from tenfold.core.errors import UserError
from tenfold.core.origins import SHIPPED, Dataset, content_sha256


@dataclass(frozen=True)
class DatasetInfo:
    """One line of `tenfold data list`."""

    name: str
    what: str
    size: str
    licence: str
    source: str
    present: bool


def cache_dir() -> Path:
    """The folder for everything fetched or converted: `TENFOLD_CACHE`, else `~/.cache/tenfold`."""
    return Path(os.environ.get("TENFOLD_CACHE") or Path.home() / ".cache" / "tenfold").expanduser().absolute()


def path(name: str) -> Path:
    """The file or folder of a data set on this machine; `TENFOLD_DATA` comes before the cache.

    Args:
        name: a name of the catalogue ("arc_easy", "book_alice"), of a group ("novels", "gsm8k", "evaluation": gives
            the folder that holds them), or a path below the data folder ("02-afm/text/book_alice.txt", "02-afm").
    Raises:
        UserError: absent; the line names the places searched and the command that brings it.
    """
    wanted = _datasets(name)
    found = _find(name, wanted)
    if found is not None:
        return found
    places = " and ".join(str(root) for root in _roots())
    if wanted:
        raise UserError(f"data not found: {name} (looked in {places}); get it: tenfold data get {name}")
    raise UserError(f"data not found: {name} (looked in {places}); see tenfold data list, or set TENFOLD_DATA")


def list_datasets() -> list[DatasetInfo]:
    """What the catalogue knows, in its order, and whether it is on this machine."""
    return [
        DatasetInfo(
            name=dataset.name,
            what=dataset.what,
            size=human_size(dataset.size),
            licence=dataset.licence,
            source=dataset.origins[0].home,
            present=_find(dataset.name, [dataset]) is not None,
        )
        for dataset in CATALOGUE.values()
    ]


def get(name: str, *, force: bool = False, progress: bool = False) -> Path:
    """Bring a data set to this machine and say where it is; what is already here is not fetched again.

    Args:
        name: a name, a group or a path below the data folder, as for `path`.
        force: fetch into the cache even if it is already here.
        progress: draw progress bars on stderr.
    Raises:
        UserError: unknown name, no network, wrong content, or a full disk.
    """
    wanted = _datasets(name)
    if not wanted:
        known = [*CATALOGUE, *GROUPS]
        raise UserError(f"unknown data set {name!r}{did_you_mean(name, known)}; known: {', '.join(known)}")
    found = None if force else _find(name, wanted)
    if found is not None:
        return found
    for dataset in wanted:  # a group goes to the cache whole, so that one folder holds it
        _fetch(dataset, force, progress)
    return _data_cache() / _location(name, wanted)


def human_size(size: float) -> str:
    """Bytes as people read them: 1115394 is "1.1 MB"."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _fetch(dataset: Dataset, force: bool, progress: bool) -> None:
    """Origins into the cache, converted, checked and moved into place; two callers at once do the work once."""
    destination = _data_cache() / dataset.file
    downloads = cache_dir() / "downloads" / dataset.name
    with disk_faults(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        downloads.mkdir(parents=True, exist_ok=True)
        with FileLock(downloads.with_suffix(".lock")):
            if destination.is_file() and not force:
                return
            files = [origin.bring(downloads, progress=progress) for origin in dataset.origins]
            content = dataset.convert([file.read_bytes() for file in files])
            got = content_sha256(dataset.file, content)
            if got != dataset.sha256:
                raise RuntimeError(f"{dataset.name}: conversion gave SHA-256 {got}, expected {dataset.sha256}")
            write_atomic(destination, content)
            shutil.rmtree(downloads)


def _datasets(name: str) -> list[Dataset]:
    """The data sets a name stands for: itself, its group, its file, or all files below its folder."""
    if name in CATALOGUE:
        return [CATALOGUE[name]]
    if name in GROUPS:
        return [CATALOGUE[member] for member in GROUPS[name]]
    place = PurePosixPath(name)
    if not place.parts or place.is_absolute() or ".." in place.parts:
        raise UserError(f"data name: got {name!r}, need a name of `tenfold data list` or a path below the data folder")
    return [dataset for dataset in CATALOGUE.values() if PurePosixPath(dataset.file).is_relative_to(place)]


def _location(name: str, wanted: list[Dataset]) -> PurePosixPath:
    """Path below a data folder: the file of one set, the folder that holds all sets of a group."""
    if name in CATALOGUE:
        return PurePosixPath(CATALOGUE[name].file)
    if name in GROUPS:
        return PurePosixPath(os.path.commonpath([dataset.file for dataset in wanted]))
    return PurePosixPath(name)


def _find(name: str, wanted: list[Dataset]) -> Path | None:
    """The first place that holds all of it."""
    for root in (*_roots(), SHIPPED):
        target = root / _location(name, wanted)
        if target.exists() and all((root / dataset.file).is_file() for dataset in wanted):
            return target
    return None


def _roots() -> list[Path]:
    """The folders searched for data that were brought here, in order. A `TENFOLD_DATA` that is set but wrong is a mistake worth a line."""
    prepared = os.environ.get("TENFOLD_DATA")
    if not prepared:
        return [_data_cache()]
    if not Path(prepared).is_dir():
        raise UserError(f"TENFOLD_DATA: got {prepared}, need an existing folder; correct it or unset it")
    return [Path(prepared).absolute(), _data_cache()]


def _data_cache() -> Path:
    return cache_dir() / "data"
