"""Texts of tools as words and as vectors: what retrievers, clusters and baselines read."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tenfold.core.errors import UserError

if TYPE_CHECKING:
    from tenfold.tools.tool import Tool

Vectors = NDArray[np.float64]
Embed = str | Callable[[Sequence[str]], Any]
SVD_DIM = 64

_TOKEN = re.compile(r"[a-z0-9]+")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|_")


def split_name(text: str) -> str:
    """camelCase and snake_case as separate words."""
    return _CAMEL.sub(" ", text)


def tokens(text: str) -> list[str]:
    """Words of letters a-z and digits, in lower case."""
    return _TOKEN.findall(text.lower())


def document(tool: Tool) -> str:
    """What a tool is found by: its name and signature in separate words, and its description."""
    return f"{split_name(tool.name)} {tool.description} {split_name(tool.signature)}"


def embedder(embed: Embed) -> Callable[[Sequence[str]], Vectors]:
    """A function of texts to vectors (N, D) of length 1.

    Args:
        embed: "tfidf-svd" (fitted to the texts it is given), a function, or a sentence encoder: its name (tenfold
            models list) or its folder.
    """
    if callable(embed):
        return lambda texts: _unit(np.asarray(embed(texts), dtype=np.float64))
    if embed == "tfidf-svd":
        return tfidf_svd
    return _encoder(embed)


def tfidf_svd(texts: Sequence[str]) -> Vectors:
    """TF-IDF, its first 64 singular directions, length 1."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(sublinear_tf=True, stop_words="english")
    try:
        counts = vectorizer.fit_transform(split_name(text) for text in texts)
    except ValueError:  # nothing but stop words
        return np.ones((len(texts), 1))
    size = min(SVD_DIM, min(counts.shape) - 1)
    if size < 1:
        return _unit(np.asarray(counts.todense(), dtype=np.float64))
    return _unit(TruncatedSVD(size, random_state=42).fit_transform(counts))


def _unit(vectors: Vectors) -> Vectors:
    if vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise ValueError(f"embed: got shape {vectors.shape}, need finite vectors (texts, features)")
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


@lru_cache(maxsize=4)
def _encoder(name: str) -> Callable[[Sequence[str]], Vectors]:
    """A BERT of sentences: the mean of its last states."""
    import torch

    from tenfold.lm.pretrained import find

    place = find(name)
    if not (place / "tokenizer.json").is_file():
        raise UserError(f"embed: {place} has no tokenizer.json; need a sentence encoder's folder")
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(place), AutoModel.from_pretrained(place).eval()

    @torch.no_grad()
    def encode(texts: Sequence[str]) -> Vectors:
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))  # like lengths share a batch
        found = np.zeros((len(texts), model.config.hidden_size))
        for start in range(0, len(order), 64):
            part = order[start : start + 64]
            batch = tokenizer([texts[i] or " " for i in part], padding=True, truncation=True, max_length=256, return_tensors="pt")  # fmt: skip
            states = model(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1)
            found[part] = ((states * mask).sum(1) / mask.sum(1)).double().numpy()
        return _unit(found)

    return encode
