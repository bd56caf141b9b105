"""The training and validation text as token ids, the same for every model of an experiment."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from tenfold.core.data import path as data_path
from tenfold.core.errors import UserError
from tenfold.recipes.moe_vs_dense.config import Data
from tenfold.text.corpus import (
    Document,
    english_texts,
    load_texts,
    split,
    stdlib_source,
    tokenize,
    train_tokenizer_cached,
)
from tenfold.text.tokenizer import Tokenizer

ENGLISH = "02-afm/text"  # where the English texts lie below TENFOLD_DATA or the cache


@dataclass(frozen=True)
class Text:
    """Token ids of the two parts.

    Args:
        source: what was read, in words, for the report.
        tokenizer: byte-pair, trained on the training part alone.
        train: token ids (N,).
        validation: token ids (rows, sequence + 1), spread evenly over the last 5 % of each file.
        bytes_per_token: UTF-8 bytes a token of the validation part.
    """

    source: str
    tokenizer: Tokenizer
    train: NDArray[np.unsignedinteger]
    validation: NDArray[np.int64]
    bytes_per_token: float


def resolve_source(source: str) -> str:
    """Which text "auto" means here: English where it is on this machine, else the standard library's source."""
    if source != "auto":
        return source
    try:
        data_path(ENGLISH)
    except UserError:
        return "stdlib"
    return "english"


def _documents(data: Data) -> tuple[str, list[Document]]:
    source = resolve_source(data.source)
    if source == "stdlib":
        return "source code of the running Python's standard library", stdlib_source()
    if source == "files":
        for path in data.text:
            if path.is_dir():
                raise UserError(f"text: {path} is a folder; name files: .txt, .jsonl or .jsonl.gz")
        return ", ".join(path.name for path in data.text), load_texts(data.text)
    root = data_path(ENGLISH).parents[1]
    return "six novels and 2000 film reviews (English)", english_texts(root)[0]


@cache
def load_text(data: Data) -> Text:
    """Read, split, train the tokenizer and encode; ids and tokenizer are kept in the cache folder.

    Raises:
        UserError: text not found, empty or too short for one validation row.
    """
    name, documents = _documents(data)
    train, validation = split(documents)
    tokenizer = train_tokenizer_cached(train, data.vocabulary)
    held_out = tokenize(validation, tokenizer)
    windows = (len(held_out) - 1) // data.sequence
    if windows < 1:
        raise UserError(f"text: {len(held_out)} tokens of validation text, need {data.sequence + 1}; give more text")
    starts = np.unique(np.linspace(0, windows - 1, min(windows, data.validation_rows)).astype(np.int64)) * data.sequence
    return Text(
        source=name,
        tokenizer=tokenizer,
        train=tokenize(train, tokenizer),
        validation=held_out[starts[:, None] + np.arange(data.sequence + 1)].astype(np.int64),
        bytes_per_token=sum(len(document.text.encode()) for document in validation) / len(held_out),
    )
