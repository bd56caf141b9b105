"""Lines "word: definition" of a small database of nouns in WordNet's layout."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

from archives import tar_of

from tenfold.core.gloss_conversion import _is_held_out, glosses

NOUNS = (
    "  1 This is the licence, which begins with blanks.  \n"
    "00001740 03 n 01 black_cat 0 003 ~ 00001930 n 0000 | a cat whose fur is black; also its image; \"the black cat\"  \n"
    "00001930 03 n 02 tom 0 tomcat 0 001 @ 00001740 n 0000 | a cat that is male  \n"
    "00002137 18 n 02 Tom 0 Thomas 0 001 @ 00001740 n 0000 | the cat who hunts Jerry  \n"
    "00002452 03 n 01 fur 0 001 @ 00001740 n 0000 | too short  \n"
    f"00002684 03 n 01 tail 0 001 @ 00001740 n 0000 | {'long ' * 23}  \n"
)  # fmt: skip


def archive(nouns: str) -> bytes:
    return tar_of({"package/WNdb-3.0.tar.gz": tar_of({"dict/data.noun": nouns.encode(), "dict/data.verb": b""})})


def test_first_word_and_definition_without_examples_names_and_extremes() -> None:
    lines = glosses("train")([archive(NOUNS)]) + glosses("val")([archive(NOUNS)])
    assert sorted(lines.decode().splitlines()) == [
        "black cat: a cat whose fur is black; also its image",
        "tom: a cat that is male",
    ]


def test_both_parts_are_the_lines_drawn() -> None:
    nouns = "".join(f"{i:08} 03 n 01 word{i} 0 000 | the meaning of word {i}  \n" for i in range(400))
    train, val = (glosses(part, 300)([archive(nouns)]).decode().splitlines() for part in ("train", "val"))
    assert len(train) + len(val) == len({*train, *val}) == 300
    assert 10 < len(val) < 40 and train != sorted(train)
    assert all(map(_is_held_out, val)) and not any(map(_is_held_out, train))


def test_prepared_parts_keep_the_rule(data_dir: Path) -> None:
    for part, count in (("train", 27597), ("val", 2403)):
        lines = gzip.decompress((data_dir / f"08-mm1/glosses-{part}.txt.gz").read_bytes()).decode().splitlines()
        assert len(lines) == count and {_is_held_out(line) for line in lines} == {part == "val"}
        assert not any(line[0].isupper() for line in lines)
