"""Text to training batches: documents, their split, cached token ids and resumable windows."""

# Shape legend: B batch, T tokens of a window

from __future__ import annotations

import hashlib
import json
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tenfold.core import packed
from tenfold.core.atomic import replacing
from tenfold.core.data import cache_dir
from tenfold.core.errors import UserError
from tenfold.core.stream import ArrayStream
from tenfold.text.tokenizer import Tokenizer, train_tokenizer


@dataclass(frozen=True)
class Document:
    """A text and the file it came from."""

    text: str
    source: str


def load_texts(paths: Iterable[str | Path], *, max_bytes: int = 4 << 30) -> list[Document]:
    """Read UTF-8 text: a .txt (or any other) file is one document, a .jsonl or .jsonl.gz file one a line.

    Args:
        paths: files; a JSON line holds its text under "text".
        max_bytes: the most that one compressed file may unpack to.
    Raises:
        UserError: a file that is missing, empty, not UTF-8, or a line without text.
    """
    return [document for path in paths for document in _load_file(Path(path), max_bytes)]


def stdlib_source() -> list[Document]:
    """The .py files of the running Python's standard library (PSF licence), about 10 MB, in a fixed order.

    `test`, `site-packages`, `idlelib` and the like are left out, and so are files that are not UTF-8.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    skip = {"test", "tests", "site-packages", "dist-packages", "idlelib", "lib2to3", "__pycache__"}
    documents = []
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if skip.isdisjoint(relative.parts):
            try:
                text = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue  # a few codec samples are Latin-1 on purpose
            if text.strip():
                documents.append(Document(text, relative.as_posix()))
    if not documents:
        raise UserError(f"text not found: no .py files under {root}; give text files of your own")
    return documents


def english_texts(root: str | Path) -> tuple[list[Document], list[Document]]:
    """Six novels and 2000 film reviews to train on, WikiText-2's validation part to validate on only.

    Args:
        root: the data folder (what TENFOLD_DATA names).
    Returns:
        training documents, validation documents.
    Raises:
        UserError: a file is missing.
    """
    folder = Path(root) / "02-afm" / "text"
    novels = [folder / f"book_{name}.txt" for name in ("alice", "jungle", "oz", "pride", "sherlock", "treasure")]
    return load_texts([*novels, folder / "movie_reviews.jsonl.gz"]), load_texts([folder / "wikitext2_valid.txt"])


def split(documents: Sequence[Document], validation: float = 0.05) -> tuple[list[Document], list[Document]]:
    """Cut the last part of each file off for validation.

    A file of many documents gives its last ones. A file of one document is cut at a line end, or else a space, that
    lies at most 1000 characters ahead of its share and at most doubles it; or else in the midst of a word.

    Args:
        documents: as loaded, those of one file in their order.
        validation: share of each file, in (0, 1).
    Returns:
        training documents, validation documents.
    Raises:
        UserError: nothing is left for one of the two.
    """
    if not 0 < validation < 1:
        raise ValueError(f"validation: got {validation}, need a share in (0, 1)")
    by_source: dict[str, list[Document]] = {}
    for document in documents:
        by_source.setdefault(document.source, []).append(document)
    train: list[Document] = []
    held_out: list[Document] = []
    for group in by_source.values():
        if len(group) == 1:
            first, last = _cut(group[0], 1 - validation)
            train += first
            held_out += last
        else:
            count = max(1, round(len(group) * validation))
            train += group[:-count]
            held_out += group[-count:]
    if not train or not held_out:
        raise UserError(
            f"text: {len(documents)} documents are too little to split off {validation:.0%}; give more text"
        )
    return train, held_out


def tokenize(documents: Sequence[Document], tokenizer: Tokenizer, *, cache: bool = True) -> NDArray[np.unsignedinteger]:
    """Token ids of all documents in a row, the end-of-text token after each.

    Args:
        documents: what to encode.
        tokenizer: with an end-of-text token.
        cache: keep the ids on disk (TENFOLD_CACHE, default ~/.cache/tenfold) under a hash of texts and tokenizer.
    Returns:
        uint16 or, for vocabularies above 65 536, uint32 ids; mapped from the file where cached.
    """
    if tokenizer.eos_id is None:
        raise UserError("tokenizer: it has no end-of-text token, which closes each document")
    if not documents:
        raise UserError("text: got no documents, give at least one file with text")
    dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32
    path = cache_dir() / "tokens" / f"{_content_hash(documents, tokenizer)}.npy"
    if cache and (cached := _cached(path, dtype)) is not None:
        return cached
    parts = []
    for start in range(0, len(documents), 256):
        for ids in tokenizer.encode_batch([document.text for document in documents[start : start + 256]]):
            parts.append(np.array([*ids, tokenizer.eos_id], dtype=dtype))
    tokens = np.concatenate(parts)
    if cache:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.save(file, tokens, allow_pickle=False)
    return tokens


def train_tokenizer_cached(documents: Sequence[Document], vocab_size: int) -> Tokenizer:
    """`train_tokenizer` on the documents, kept in the cache under a hash of texts and size."""
    digest = hashlib.sha256(f"{vocab_size}\n".encode())
    for document in documents:
        _update(digest, document.text)
    folder = cache_dir() / "tokenizers" / digest.hexdigest()[:32]
    if not (folder / "tokenizer_config.json").is_file():  # written last
        train_tokenizer((document.text for document in documents), vocab_size).save(folder)
    return Tokenizer.load(folder)


class TokenWindows(ArrayStream):
    """Endless batches of windows over a row of token ids, in the order `permutation(seed, epoch)`.

    Windows of T + 1 tokens overlap by one: every token but the first is a target once an epoch, save the rest at the
    end that fills no window. The state is (epoch, position), so a resumed stream yields what the uninterrupted one
    would have.

    Args:
        ids: token ids (N,), in memory or mapped from a file.
        seq_len: T.
        batch_size: B, rows of one batch over all ranks together.
        seed: of the order.
        rank, world: this process takes the `rank`-th of `world` equal parts of each batch.
    Raises:
        UserError: fewer tokens than one batch needs.
    """

    def __init__(
        self,
        ids: NDArray[np.integer],
        seq_len: int,
        batch_size: int,
        seed: int = 0,
        *,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if min(seq_len, batch_size) < 1:
            raise ValueError(f"seq_len, batch_size: got {seq_len}, {batch_size}, need at least 1")
        windows = (len(ids) - 1) // seq_len
        if windows < batch_size:
            raise UserError(
                f"text: got {len(ids)} tokens, need at least {batch_size * seq_len + 1} "
                f"(batch {batch_size} x sequence {seq_len} + 1); give more text or a smaller batch"
            )
        # A view: the windows share the memory of `ids`.
        view = np.lib.stride_tricks.sliding_window_view(ids[: windows * seq_len + 1], seq_len + 1)[::seq_len]
        super().__init__(view, batch_size, seed=seed, rank=rank, world=world)

    def _fetch(self, indices: NDArray[np.integer]) -> dict[str, Tensor]:
        """{"ids": (B, T) int64, "targets": (B, T) int64}"""
        rows = torch.from_numpy(cast(np.ndarray, self.data)[indices].astype(np.int64))
        return {"ids": rows[:, :-1], "targets": rows[:, 1:]}


def evaluation_batches(ids: NDArray[np.integer], seq_len: int, batch_size: int) -> Iterator[dict[str, Tensor]]:
    """Batches in order in which every token but the first is a target exactly once.

    Args:
        ids: token ids (N,), at least two.
        seq_len, batch_size: T, B; the last window is filled up with targets -100, the last batch may be smaller.
    """
    if len(ids) < 2:
        raise UserError(f"text: got {len(ids)} tokens to evaluate on, need at least 2; give more text")
    windows = -(-(len(ids) - 1) // seq_len)
    inputs = np.zeros(windows * seq_len, dtype=np.int64)
    targets = np.full(windows * seq_len, -100, dtype=np.int64)
    inputs[: len(ids) - 1], targets[: len(ids) - 1] = ids[:-1], ids[1:]
    for start in range(0, windows, batch_size):
        part = slice(start, start + batch_size)
        yield {
            "ids": torch.from_numpy(inputs.reshape(windows, seq_len)[part]),
            "targets": torch.from_numpy(targets.reshape(windows, seq_len)[part]),
        }


def _load_file(path: Path, max_bytes: int) -> list[Document]:
    if not path.is_file():
        raise UserError(f"text not found: {path} (see README: data)")
    try:
        text = packed.unpacked(path, max_bytes).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"text: {path} is not UTF-8 (byte {error.start}); convert it first") from error
    text = text.removeprefix("\ufeff")
    if not text.strip():
        raise UserError(f"text: {path} is empty; give a file with text")
    if ".jsonl" not in path.suffixes:
        return [Document(text, str(path))]
    return [_json_line(line, path, number) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _json_line(line: str, path: Path, number: int) -> Document:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"text: {path} line {number} is not JSON ({error})") from error
    text = row.get("text") if isinstance(row, dict) else None
    if not isinstance(text, str) or not text:
        raise UserError(f'text: {path} line {number} has no "text"; every line needs {{"text": "…"}}')
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:  # JSON can spell one half of a surrogate pair
        raise UserError(f"text: {path} line {number} is no Unicode text (character {error.start})") from error
    return Document(text, str(path))


def _cut(document: Document, share: float) -> tuple[list[Document], list[Document]]:
    """The first `share` of the characters, up to a line end or else a space where one is near, and the rest."""
    text = document.text
    at = round(len(text) * share)
    near = max(0, at - min(1000, len(text) - at))
    for mark in ("\n", " "):
        if (found := text.rfind(mark, near, at)) >= 0:
            at = found + 1
            break
    first, last = text[:at], text[at:]
    return [Document(part, document.source) for part in (first,) if part], [
        Document(part, document.source) for part in (last,) if part
    ]


def _cached(path: Path, dtype: type[np.unsignedinteger]) -> NDArray[np.unsignedinteger] | None:
    """The ids in a file of the token cache, mapped; None where there is no file or a damaged one."""
    try:
        ids = np.lib.format.open_memmap(path, mode="r")
    except Exception:  # noqa: BLE001  (numpy parses the header as Python, where damage shows in any way)
        return None
    return ids if ids.dtype == dtype and ids.ndim == 1 else None


def _content_hash(documents: Sequence[Document], tokenizer: Tokenizer) -> str:
    digest = hashlib.sha256()
    _update(digest, tokenizer.backend.to_str())
    _update(digest, str(tokenizer.eos_id))
    for document in documents:
        _update(digest, document.text)
    return digest.hexdigest()[:32]


def _update(digest: Any, text: str) -> None:
    """Length first, so that no two lists of texts give the same bytes."""
    data = text.encode("utf-8")
    digest.update(len(data).to_bytes(8, "little"))
    digest.update(data)
