"""Near-duplicates are found, unrelated texts are not, and the answer is that of comparing every pair."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tenfold.text.dedup import MinHashDeduper, _WordHashes
from tenfold.text.words import normalised_words

VOCABULARY = [f"word{i}" for i in range(5000)]


def changed(text: str, count: int, generator: random.Random) -> str:
    """The text with so many of its words replaced by others."""
    words = text.split()
    for place in generator.sample(range(len(words)), count):
        words[place] = f"new{generator.random()}".replace(".", "")
    return " ".join(words)


def corpus(seed: int) -> list[str]:
    """Texts of 60 words, most of them changed copies of earlier ones, at all similarities."""
    generator = random.Random(seed)
    texts = [" ".join(generator.choices(VOCABULARY, k=60)) for _ in range(10)]
    for count in list(range(12)) * 4:
        texts.append(changed(generator.choice(texts), count, generator))
    generator.shuffle(texts)
    return texts


def jaccard(one: str, other: str, size: int = 5) -> float:
    def shingles(text: str) -> set[tuple[str, ...]]:
        words = normalised_words(text) or [text]
        return {tuple(words[i : i + size]) for i in range(max(1, len(words) - size + 1))}

    a, b = shingles(one), shingles(other)
    return len(a & b) / len(a | b)


def every_pair(texts: list[str], threshold: float) -> list[int]:
    """The slow twin: compare all pairs, give each text the first it is linked with."""
    first = list(range(len(texts)))
    for i, j in itertools.combinations(range(len(texts)), 2):
        if jaccard(texts[i], texts[j]) >= threshold:
            low, high = sorted((first[i], first[j]))
            first = [low if f == high else f for f in first]
    return first


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_those_of_all_pairs(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = corpus(seed)
    for threshold in (0.5, 0.7, 1.0):
        # Many narrow bands make every similar pair a candidate, so that nothing is left to chance.
        deduper = MinHashDeduper(bands=128, rows=1, threshold=threshold)
        expected = every_pair(texts, threshold)
        assert deduper.groups(texts).tolist() == expected
        monkeypatch.setattr(deduper, "_buckets", lambda signatures: [list(range(len(signatures)))])
        assert deduper.groups(texts).tolist() == expected


@pytest.mark.parametrize("seed", range(20))
def test_a_copy_with_two_per_cent_changed_is_found(seed: int) -> None:
    generator = random.Random(seed)
    text = " ".join(generator.choices(VOCABULARY, k=300))
    other = " ".join(generator.choices(VOCABULARY, k=300))
    near = changed(text, 6, generator)
    assert MinHashDeduper().groups([other, text, near, text, text.upper() + "!"]).tolist() == [0, 1, 1, 1, 1]
    assert MinHashDeduper().unique([text, other, near]) == [0, 1]


def test_among_novel_paragraphs_only_a_repeated_verse_is_found(data_dir: Path) -> None:
    books = sorted((data_dir / "02-afm" / "text").glob("book_*.txt"))
    texts = [part for book in books for part in re.split(r"\n\s*\n", book.read_text(encoding="utf-8"))]
    texts = [text for text in texts if len(text.split()) >= 60][:500]
    assert len(texts) == 500
    groups = MinHashDeduper().groups(texts)
    found = np.flatnonzero(groups != np.arange(500))
    assert all("Shiv, who poured the harvest" in texts[i] and jaccard(texts[i], texts[groups[i]]) >= 0.7 for i in found)
    assert len(found) == 1


def test_links_join_across_a_middle_text() -> None:
    words = [f"w{i}" for i in range(60)]
    first, middle, last = (" ".join(words[start : start + 50]) for start in (0, 5, 10))
    assert jaccard(first, last) < 0.7 < jaccard(first, middle)
    assert MinHashDeduper().groups([last, first, middle]).tolist() == [0, 0, 0]
    assert MinHashDeduper().groups([last, first]).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("texts", "groups"),
    [
        ([], []),
        ([""], [0]),
        (["", " ", ""], [0, 1, 0]),
        (["a", "A!", "b"], [0, 0, 2]),
        (["a b c d", "a b c", "a b c d e"], [0, 1, 2]),
        (["a b c d", "A, b; c - d?"], [0, 0]),
        (["...", "!!!", "..."], [0, 1, 0]),
        (["ﬁne café", "FINE cafe\u0301"], [0, 0]),
        (["a\ud800b", "a\ud800b"], [0, 0]),
    ],
)
def test_short_texts(texts: list[str], groups: list[int]) -> None:
    assert MinHashDeduper().groups(texts).tolist() == groups


def test_signatures_by_hand() -> None:
    deduper = MinHashDeduper(permutations=8, bands=2)
    shingles = np.random.default_rng(0).integers(0, 1 << 64, 3000, dtype=np.uint64)  # more than one chunk
    expected = [
        min((int(a) * int(shingle) + int(b)) % (1 << 64) for shingle in shingles) >> 32
        for a, b in zip(deduper._a, deduper._b, strict=True)
    ]
    assert deduper._signature(shingles).tolist() == expected


def test_signatures_estimate_similarity() -> None:
    deduper = MinHashDeduper(permutations=4000, bands=4000, rows=1)  # standard error below 0.008
    generator = random.Random(3)
    text = " ".join(generator.choices(VOCABULARY, k=1000))
    hashes = _WordHashes()
    for count in (5, 30, 100):
        other = changed(text, count, generator)
        one, two = (deduper._signature(deduper._shingles(each, hashes)) for each in (text, other))
        assert abs(np.mean(one == two) - jaccard(text, other)) < 0.03


def test_the_threshold_is_met_exactly() -> None:
    words = [f"w{i}" for i in range(114)]
    texts = [" ".join(words), " ".join(words[:81])]  # 110 n-grams, of which 77
    assert jaccard(*texts) == 0.7
    assert MinHashDeduper(bands=128, rows=1).groups(texts).tolist() == [0, 0]
    assert MinHashDeduper(bands=128, rows=1, threshold=0.7001).groups(texts).tolist() == [0, 1]


def test_thousands_of_near_copies_are_one_group() -> None:
    generator = random.Random(1)
    text = " ".join(generator.choices(VOCABULARY, k=100))
    assert MinHashDeduper().unique(changed(text, 1, generator) for _ in range(2000)) == [0]


def test_the_same_in_every_process() -> None:
    script = (
        "from tenfold.text.dedup import MinHashDeduper\n"
        "w = [f'w{i}' for i in range(60)]\n"
        "texts = [' '.join(w[:i] + [f'n{i}'] + w[i:]) for i in range(20)]\n"
        # Few and wide bands: which pairs become candidates is chance, drawn from the hashes.
        "print(MinHashDeduper(bands=8, rows=16, threshold=0.5).groups(texts).tolist())"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert len(printed) == 1
    assert 1 < len(set(json.loads(printed.pop()))) < 20


def test_the_published_numbers() -> None:
    deduper = MinHashDeduper()
    assert (deduper.shingle, len(deduper._a), deduper.bands, deduper.threshold) == (5, 128, 32, 0.7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bands": 30}, r"bands x rows: got 30 x 4, need 128 \(permutations\)"),
        ({"shingle": 0}, "shingle, bands, rows: got 0, 32, 4, need at least 1"),
        ({"threshold": 0.0}, r"threshold: got 0.0, need a similarity in \(0, 1\]"),
        ({"threshold": 1.1}, "threshold: got 1.1"),
    ],
)
def test_faults(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MinHashDeduper(**options)
