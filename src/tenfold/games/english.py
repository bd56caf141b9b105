"""English inflections by rule: plurals, and the forms in -s, -ed and -ing.

The plural follows the steps of Conway's algorithm: words that stay, irregular words, foreign endings, then the spelling of -s.
"""

from __future__ import annotations

import re
from functools import lru_cache

_SAME = (
    "aircraft bison chassis cod corps deer elk fish headquarters hovercraft means moose offspring pincers pliers "
    "rabies salmon scissors series shears sheep shrimp spacecraft species squid swine trout trousers tuna"
)
_SAME_ENDINGS = ("fish", "sheep", "deer", "pox", "itis")
# Irregular words; a compound that ends in one of them (bookshelf, housewife) follows it, but for _REGULAR_ENDINGS.
_IRREGULAR = (
    "man:men woman:women person:people child:children foot:feet tooth:teeth goose:geese mouse:mice louse:lice "
    "ox:oxen die:dice life:lives knife:knives wife:wives half:halves calf:calves elf:elves self:selves "
    "shelf:shelves wolf:wolves loaf:loaves leaf:leaves sheaf:sheaves thief:thieves scarf:scarves wharf:wharves "
    "dwarf:dwarves hoof:hooves quiz:quizzes octopus:octopuses opus:opera genus:genera corpus:corpora"
)
_REGULAR_ENDINGS = (
    "human caiman cayman doberman german hetman norman ottoman roman shaman talisman mongoose blouse box fox pox "
    "golf gulf kerchief mischief"
)
# Foreign nouns that keep their plural in English, by ending.
_FOREIGN = {
    ("um", "a"): (
        "addendum agendum aquarium bacterium candelabrum compendium consortium cranium curriculum datum desideratum "
        "dictum emporium equilibrium erratum extremum gymnasium maximum medium memorandum millennium minimum momentum "
        "moratorium optimum ovum phylum quantum referendum rostrum spectrum stratum symposium trapezium ultimatum"
    ),
    ("us", "i"): (
        "alumnus bacillus bronchus cactus calculus focus fungus incubus locus nimbus nucleus radius stimulus stylus "
        "succubus syllabus terminus torus umbilicus uterus"
    ),
    ("on", "a"): "aphelion criterion ganglion noumenon perihelion phenomenon polyhedron prolegomenon",
    ("ex", "ices"): "apex codex cortex index latex simplex vertex vortex",
    ("ix", "ices"): "appendix cervix dominatrix executrix helix matrix radix",
    ("is", "es"): "axis penis testis",
    ("o", "i"): "contralto graffito",
    ("nx", "nges"): "phalanx sphinx",
}
_SAME_WORDS = frozenset(_SAME.split())
_IRREGULAR_PLURALS = dict(pair.split(":") for pair in _IRREGULAR.split())
_FOREIGN_PLURALS = {
    word: word.removesuffix(end) + plural for (end, plural), words in _FOREIGN.items() for word in words.split()
}
_IN_OES = "domino echo embargo hero mango mosquito potato tomato torpedo veto volcano"
_WORDS_IN_OES = frozenset(_IN_OES.split())


@lru_cache(maxsize=1 << 16)
def plural(word: str) -> str:
    """The plural of an English noun in lower case; other words are treated as nouns."""
    if word in _SAME_WORDS or word.endswith(_SAME_ENDINGS):
        return word
    if word in _FOREIGN_PLURALS:
        return _FOREIGN_PLURALS[word]
    if not word.endswith(tuple(_REGULAR_ENDINGS.split())):
        for end, irregular in _IRREGULAR_PLURALS.items():
            if word == end or (word.endswith(end) and (len(end) > 3 or end == "man")):
                return word.removesuffix(end) + irregular
    if re.search("[^s]sis$", word) and len(word) > 4:  # Greek: analysis, crisis
        return word[:-2] + "es"
    if word in _WORDS_IN_OES or re.search("(?:s|x|z|ch|sh)$", word):
        return word + "es"
    if re.search("(?:[^aeiou]|qu)y$", word):
        return word[:-1] + "ies"
    return word + "s"


@lru_cache(maxsize=1 << 16)
def inflections(word: str) -> frozenset[str]:
    """A word in lower case with its plural and its forms in -s, -ed and -ing; of several words the last is inflected.

    Where usage decides whether a consonant doubles (visited, referred; bused, gassed), both spellings are there.
    """
    last = re.split(r"[\s-]", word)[-1]
    head = word.removesuffix(last)
    forms = {last, plural(last), _third_person(last)}
    for stem in _stems(last):
        forms |= {stem + "ing", stem + "ed"}
    if last.endswith("ie"):
        forms |= {last[:-2] + "ying", last + "d"}
    elif re.search("(?:ee|oe|ye)$", last):
        forms |= {last + "ing", last + "d"}
    elif re.search("[^aeiou]y$", last):
        forms |= {last + "ing", last[:-1] + "ied"}
    return frozenset(head + form for form in forms)


def _third_person(word: str) -> str:
    if re.search("[^aeiou]y$", word):
        return word[:-1] + "ies"
    return word + ("es" if re.search("(?:s|x|z|ch|sh|[^aeiou]o)$", word) else "s")


def _stems(word: str) -> list[str]:
    """What -ing and -ed are both put behind; none where they differ."""
    if re.search("(?:ie|ee|oe|ye|[^aeiou]y)$", word):
        return []
    if word.endswith("e"):
        return [word[:-1]]
    if word.endswith("c"):
        return [word + "k"]
    if re.search("(?:^|[^aeiou]|qu)[aeiouy][bdfgklmnprstvz]$", word):
        syllables = len(re.findall("[aeiouy]+", word))
        return [word + word[-1]] if syllables == 1 and word[-1] not in "sz" else [word, word + word[-1]]
    return [word]
