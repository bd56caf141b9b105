"""CIDEr of captions: what share of the telling words of people's captions a caption has."""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tenfold.core.errors import UserError

ORDERS, SIGMA = 4, 6.0
DROPPED = {"''", "'", "``", "`", ".", "?", "!", ",", ":", ";", "-", "--", "...", "(", ")", "[", "]", "{", "}", '"'}
DROPPED |= {"-lrb-", "-rrb-", "-lsb-", "-rsb-", "-lcb-", "-rcb-"}
_ENDINGS = re.compile(r"(?i)(n't|'(?:s|re|ve|ll|d|m)|')(?=\s|$)")

Grams = Counter[tuple[str, ...]]
Vectors = tuple[list[dict[tuple[str, ...], float]], list[float], int]


class Cider(NamedTuple):
    """CIDEr of a set of captions, and of each, in the order of the references. Tables print it times 100."""

    score: float
    per_image: list[float]


def cider(
    references: Mapping[str, Sequence[str]], hypotheses: Mapping[str, str | Sequence[str]], *, tokenize: bool = True
) -> Cider:
    """CIDEr-D, as papers report it.

    Document frequencies come from `references`: figures of different sets do not compare.

    Args:
        references: people's captions of each image.
        hypotheses: one caption of each image.
        tokenize: lower case, words split as in the Penn Treebank, punctuation left out; False splits at blanks.
    Returns:
        scores, 10 for a perfect match of rare words.
    Raises:
        UserError: images without a caption or without references, named.
    Source: Vedantam et al. 2015, arXiv 1411.5726, Section 7; counts and details as in the public COCO caption evaluation.
    """
    if missing := [str(key) for key in references if key not in hypotheses]:
        raise UserError(f"captions: none for {len(missing)} images: {', '.join(missing[:5])}")
    if missing := [str(key) for key in hypotheses if not references.get(key)]:
        raise UserError(f"references: none for {len(missing)} images: {', '.join(missing[:5])}")
    if not references:
        raise UserError("references: got no images, need at least one")
    if len(references) == 1:
        warnings.warn("CIDEr of one image is 0: every word is in all of its documents", stacklevel=2)
    split = penn_tokens if tokenize else str.split
    told = {key: [_grams(split(text)) for text in texts] for key, texts in references.items()}
    frequency: Counter[tuple[str, ...]] = Counter()
    for grams in told.values():
        frequency.update({gram for each in grams for gram in each})
    documents = math.log(len(told))
    scores = []
    for key, grams in told.items():
        text = hypotheses[key]
        own = _vectors(_grams(split(text if isinstance(text, str) else text[0])), frequency, documents)
        pairs = [_similarity(own, _vectors(each, frequency, documents)) for each in grams]
        scores.append(10 * sum(pairs) / len(pairs))
    return Cider(sum(scores) / len(scores), scores)


def penn_tokens(text: str) -> list[str]:
    """Words in lower case, contractions split off, punctuation left out."""
    text = re.sub(r"([^\w\s'.,-]|\.\.\.|--|[,](?!\d)|[.](?=\s|$))", r" \1 ", text.lower())
    text = re.sub(r"(^|\s)'(?=\S)", r"\1 ' ", text)
    words = _ENDINGS.sub(r" \1", text).split()
    return [word for word in words if word not in DROPPED]


def _grams(words: Sequence[str]) -> Grams:
    found: Grams = Counter()
    for order in range(1, ORDERS + 1):
        found.update(tuple(words[i : i + order]) for i in range(len(words) - order + 1))
    return found


def _vectors(grams: Grams, frequency: Counter[tuple[str, ...]], documents: float) -> Vectors:
    """tf-idf by order, its norms, and the length, which is the number of bigrams."""
    vectors: list[dict[tuple[str, ...], float]] = [{} for _ in range(ORDERS)]
    for gram, count in grams.items():
        vectors[len(gram) - 1][gram] = count * (documents - math.log(max(1, frequency[gram])))
    norms = [math.sqrt(sum(value * value for value in vector.values())) for vector in vectors]
    return vectors, norms, sum(count for gram, count in grams.items() if len(gram) == 2)


def _similarity(own: Vectors, told: Vectors) -> float:
    """Mean over the orders of the clipped cosine, less for captions of another length."""
    total = 0.0
    for mine, theirs, a, b in zip(own[0], told[0], own[1], told[1], strict=True):
        if a and b:
            total += sum(min(value, theirs.get(gram, 0.0)) * theirs.get(gram, 0.0) for gram, value in mine.items()) / (a * b)  # fmt: skip
    return total / ORDERS * math.exp(-((own[2] - told[2]) ** 2) / (2 * SIGMA**2))
