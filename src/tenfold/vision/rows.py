"""JSON Lines in which every line has the keys it needs, each of its type."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any

from tenfold.core.errors import UserError
from tenfold.lm.tasks import read_lines

Kind = type | UnionType


def read_rows(path: Path, keys: Mapping[str, Kind]) -> Iterator[tuple[str, dict[str, Any]]]:
    """("file:line", object) of every line.

    Args:
        path: the file.
        keys: the keys that every line needs, with the type of each; one whose type takes None may be left out.
    Raises:
        UserError: absent, empty, or a bad line, named as file:line with the key.
    """
    need = f"every line needs {', '.join(keys)}"
    if not path.is_file():
        raise UserError(f"{path} not found; need JSON Lines, {need}")
    where = None
    for line, row in read_lines(path):
        where = f"{path}:{line}"
        check_keys(row, keys, where, need)
        yield where, row
    if where is None:
        raise UserError(f"{path}: got no lines, need at least one; {need}")


def check_keys(row: Mapping[str, Any], keys: Mapping[str, Kind], where: str, need: str) -> None:
    """Refuse an object that lacks a key or has one of another type; `where` opens the error, `need` may close it."""
    for key, kind in keys.items():
        if key not in row and not isinstance(None, kind):
            raise UserError(f'{where}: "{key}" is missing; {need}')
        if not isinstance(row.get(key), kind):
            wanted = kind.__name__ if isinstance(kind, type) else kind
            raise UserError(f"{where}: {key}: got {row.get(key)!r:.80}, need {wanted}")
