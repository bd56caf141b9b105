"""What self-play of language games reads: a small lexicon that comes with tenfold, and the paper's target words."""

from __future__ import annotations

from tenfold.core.conversions import unchanged
from tenfold.core.origins import GITHUB, Dataset, Origin, Shipped

_FILE = "07-spag/lexicon.jsonl"
_WORDS = "2df0b129ea09b54e92f3bc2628216d79494920ad707ec0aa4279569adaf03f0c"
_URL = f"{GITHUB}/thwu1/spag/f439943b911d988371a1aa0d95018184d87504f6/data/all_target_words.txt"

SPAG = (
    Dataset(
        "taboo_lexicon",
        "160 nouns with clue words, from WordNet 3.0",
        "WordNet 3.0 licence",
        _FILE,
        14800,
        "1a6220672f972c261197b452ecbb6a7a9c488dd0638cbb2b411fe18cb108dcca",
        unchanged,
        (Shipped(_FILE),),
    ),
    Dataset(
        "taboo_words",
        "SPAG's 47,591 target words, by frequency",
        "CC BY-NC 4.0",
        "07-spag/target_words.txt",
        434528,
        _WORDS,
        unchanged,
        (Origin(_URL, _WORDS, 434528),),
    ),
)
