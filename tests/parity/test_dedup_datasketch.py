"""Near-duplicates against the package datasketch: its MinHash and LSH index lead to the same groups."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
from datasketch import MinHash, MinHashLSH

from tenfold.text.corpus import load_texts
from tenfold.text.dedup import MinHashDeduper
from tenfold.text.words import normalised_words


def shingles(text: str) -> set[bytes]:
    words = normalised_words(text)
    return {" ".join(words[i : i + 5]).encode() for i in range(len(words) - 4)}


def with_datasketch(texts: list[str]) -> list[int]:
    """Candidates of its index, linked at a true similarity of 0.7; each text's first."""
    index = MinHashLSH(num_perm=128, params=(32, 4))
    sets = [shingles(text) for text in texts]
    first = list(range(len(texts)))
    for i, own in enumerate(sets):
        sketch = MinHash(num_perm=128)
        sketch.update_batch(own)
        for j in index.query(sketch):
            if len(own & sets[j]) >= 0.7 * len(own | sets[j]):
                low, high = sorted((first[i], first[j]))
                first = [low if f == high else f for f in first]
        index.insert(i, sketch)
    return first


def test_the_same_groups_of_reviews(data_dir: Path) -> None:
    generator = random.Random(0)
    texts = [document.text for document in load_texts([data_dir / "02-afm" / "text" / "movie_reviews.jsonl.gz"])][:300]
    for share in np.linspace(0, 0.05, 60):  # copies of similarities from 1 to about 0.6
        words = generator.choice(texts[:300]).split()
        texts.append(" ".join("changed" if generator.random() < share else word for word in words))
    ours = MinHashDeduper().groups(texts).tolist()
    assert ours == with_datasketch(texts)
    assert 20 < sum(first != i for i, first in enumerate(ours)) < 60
