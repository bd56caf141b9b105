"""Token ids on disk as nanoGPT and litgpt keep them: a flat .bin of uint16 or uint32, with a .json header beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tenfold.core.atomic import replacing, write_atomic
from tenfold.core.errors import UserError

DTYPES: dict[str, np.dtype[Any]] = {
    "uint16": np.dtype("<u2"),
    "uint32": np.dtype("<u4"),
}  # little-endian on every machine


def write_tokens(path: str | Path, documents: Iterable[ArrayLike], vocab_size: int) -> int:
    """Write token ids, document by document, and the header; memory holds one document at a time.

    Ids are uint16 for vocabularies up to 65 536, else uint32. The file appears whole or not at all.

    Args:
        path: `name.bin`; the header becomes `name.json`, an older one goes first.
        documents: token ids of each, separators included.
        vocab_size: ids are in [0, vocab_size).
    Returns:
        number of tokens written.
    Raises:
        UserError: no tokens.
        ValueError: a path that does not end in .bin, ids that are no integers, or one outside the vocabulary.
    """
    path = _bin(path)
    if not 1 <= vocab_size <= 1 << 32:
        raise ValueError(f"vocab_size: got {vocab_size}, need 1..{1 << 32}")
    name = "uint16" if vocab_size <= 1 << 16 else "uint32"
    header = path.with_suffix(".json")
    count = 0
    with replacing(path) as temporary:
        with open(temporary, "wb") as file:
            for number, document in enumerate(documents):
                ids = _checked(document, vocab_size, f"documents[{number}]")
                file.write(ids.astype(DTYPES[name]).tobytes())
                count += len(ids)
        if count == 0:
            raise UserError(f"tokens: nothing to write to {path}; give at least one document with tokens")
        # A crash from here on leaves a file without header, never one with the header of another.
        header.unlink(missing_ok=True)
    write_atomic(header, json.dumps({"dtype": name, "count": count, "vocab_size": vocab_size}) + "\n")
    return count


def read_tokens(
    path: str | Path, *, vocab_size: int | None = None, dtype: Literal["uint16", "uint32"] | None = None
) -> NDArray[np.unsignedinteger]:
    """Token ids of a file (N,), mapped, not loaded; `TokenWindows` makes batches of them.

    Args:
        path: `name.bin`.
        vocab_size: of the tokenizer they are for; None takes any.
        dtype: type of a file without header, such as nanoGPT's (uint16); a header must agree with it.
    Raises:
        UserError: no file, a torn or empty one, a header that does not parse or does not fit, no header and no
            dtype, or another vocabulary.
    """
    path = _bin(path)
    if not path.is_file():
        raise UserError(f"tokens not found: {path}; write it with write_tokens")
    header = path.with_suffix(".json")
    if header.is_file():
        name, count, written_for = _header(header)
        if dtype is not None and dtype != name:
            raise UserError(f"tokens: {path} holds {name}, not {dtype}; leave dtype out")
        if vocab_size is not None and vocab_size != written_for:
            raise UserError(
                f"tokens: {path} is of a vocabulary of {written_for}, need {vocab_size}; take its tokenizer"
            )
    elif dtype is None:
        raise UserError(f"tokens: {path} has no header {header.name}; say its dtype (nanoGPT's files are uint16)")
    else:
        name, count = dtype, None
    size, width = path.stat().st_size, DTYPES[name].itemsize
    if size == 0 or size % width or (count is not None and size != count * width):
        need = f"a multiple of {width}, at least {width}" if count is None else f"{count * width} ({count} x {name})"
        raise UserError(f"tokens: {path} has {size} bytes, need {need}; write it again")
    ids: NDArray[np.unsignedinteger] = np.memmap(path, dtype=DTYPES[name], mode="r")
    if count is None and vocab_size is not None:
        _check_range(ids, vocab_size, path)
    return ids


def _bin(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix != ".bin":
        raise ValueError(f"path: got {path}, need a name that ends in .bin")
    return path


def _checked(document: ArrayLike, vocab_size: int, where: str) -> NDArray[np.integer]:
    ids = np.asarray(document)
    if ids.size == 0:
        return np.zeros(0, dtype=np.int64)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise ValueError(f"{where}: got {ids.dtype} of shape {ids.shape}, need integers (N,)")
    if ids.min() < 0 or ids.max() >= vocab_size:
        wrong = ids[(ids < 0) | (ids >= vocab_size)][0]
        raise ValueError(f"{where}: got token {wrong}, need 0..{vocab_size - 1} (vocab_size)")
    return ids


def _check_range(ids: NDArray[np.unsignedinteger], vocab_size: int, path: Path) -> None:
    for start in range(0, len(ids), 1 << 24):
        if (most := int(ids[start : start + (1 << 24)].max())) >= vocab_size:
            raise UserError(
                f"tokens: {path} holds token {most}, need 0..{vocab_size - 1}; take its tokenizer, or another dtype"
            )


def _header(path: Path) -> tuple[str, int, int]:
    """dtype, count and vocabulary, checked."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"tokens: {path} does not parse: {error}") from error
    content = content if isinstance(content, dict) else {}
    name, count, vocab_size = (content.get(key) for key in ("dtype", "count", "vocab_size"))
    if not isinstance(name, str) or name not in DTYPES:
        raise UserError(f"tokens: {path}: dtype: got {name!r}, need uint16 or uint32")
    for key, value in (("count", count), ("vocab_size", vocab_size)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"tokens: {path}: {key}: got {value!r}, need a number above 0")
    return name, count, vocab_size
