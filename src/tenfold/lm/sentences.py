"""English sentences, and words in capitals, as the checkers of IFEval count them.

They count with NLTK: its Punkt system with the parameters for English ends the sentences, its Treebank rules cut the
words. This is that behaviour without NLTK and without its data, in time that grows with the length of the text only.

What is left out is Punkt's table of 20 000 words seen with and without a capital. It matters only after an
abbreviation, an initial or an ellipsis, where it tells a name from an ordinary word that opens a sentence; the
commonest ordinary words stand here instead, and every other word counts as a name.

Source: Kiss and Strunk 2006, "Unsupervised Multilingual Sentence Boundary Detection" (the rules are of their section 4).
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from itertools import pairwise


def _table(words: str) -> frozenset[str]:
    return frozenset(words.split())


# What a full stop does not end; the last entry is the spaced ellipsis ". . ." without its last point.
_ABBREVIATIONS = _table(
    """
    adm ala ariz aug ave bros calif chg cie co col colo conn corp cos ct dec dr feb fla fri ft ga gen ill inc jan jr
    kan ky lt ltd maj messrs mg mich minn mr mrs ms nev nov oct ok okla ore pa prof rep reps sen sep sept sr st sw tenn
    tues va vs vt wash wed wis yr c d e f g h k l m n p r s t v w a.a a.c a.d a.g a.h a.m a.m.e a.s a.t b.f b.v c.i.t
    c.o.m.b c.v d.c d.h d.w e.f e.h e.l e.m f.g f.j g.d g.f g.k h.c h.f h.m i.m.s j.b j.c j.j j.k j.p j.r l.a l.f l.p
    m.b.a m.d.c m.j n.c n.d n.h n.j n.m n.v n.y p.a.m p.m ph.d r.a r.h r.i r.j r.k r.t s.a s.a.y s.c s.g s.p.a s.s t.j
    u.k u.n u.s u.s.a u.s.s.r w.c w.r w.va w.w
    """
) | {". . "}
# With a capital after an abbreviation or an ellipsis they open a sentence: by their frequency there ...
_STARTERS = _table(
    """
    according although among both but despite even he however i if in indeed instead it many meanwhile moreover most
    nevertheless nonetheless nor sales separately similarly since so some the there these they this though thus under
    when while yet
    """
)
# ... or since they are never capitalised inside a sentence.
_OPENERS = _table(
    """
    above absolutely almost altogether always analysis anyone anything behind being besides between beyond build
    causes certainly choose colonel combined compare consider create currently decrease definition describe desk
    develop discuss doctor does done draw effects either else enough ensure entirely eventually ever exactly excellent
    except explain explore finally follow following furthermore generate given happy hence her here him hold imagine
    improve include including likewise listen mother naturally neither note nothing objectives okay otherwise overall
    perfectly please precisely presently previously probably provide put question rarely recently remember right same
    section seemed select sentence sit solve senator someone sometimes soon specifically stand step still such suddenly
    suppose surely team thank thanks them therefore think through throughout together tomorrow translate true try turn
    typically ultimately understand undoubtedly unfortunately unless upon us using very wait welcome were whether
    which whom within without yes yesterday your
    """
)
# Also seen in lower case, so that they are no surname after an initial: "World War I. We ...".
_ORDINARY = (_OPENERS | _STARTERS - {"i"}) | _table(
    """
    a about across actually add after again against all also an and another answer any are as at background based
    basically be because been before below benefits bill bob both building by can city class clearly come company
    could country did do down during each every everyone everything few first for from get give go good great group
    had half has have his history house how increase introduction is its just keep key know last later let life like
    line little look love machine main make man mark may maybe me men methods might more much must my never new next
    no none not now obviously of off often on once one only option or other our out over part people perhaps point
    purpose read really reduce research room said say school see several she should silver something start steps stop
    student students summary sure table take tell than that their then those three time to today too total tree two
    types until up use usually was way we well what where who whose why will with women work world would write you
    """
)
# Frequent openings of an item after a number, which do not end a sentence at the number's point.
_AFTER_NUMBER = _table(
    """
    abreast aes business cbot colgate commodities cooper corrections credit dividend financing genentech henley insider
    international leisure letters notable pay-fone pegasus pepper review rj wedgestone who zimmer
    """
)

_CLOSERS = """)";}]*:@'({[‘’“”«»?!"""  # characters at which a word ends
_CUT = rf"[{re.escape(_CLOSERS)}]"
_RUN = r"-{2,}|\.{2,}|(?:\.\s){2,}\."
_CANDIDATE = re.compile(rf"[.?!](?=({_CUT}|\s+(\S+)))")
_TOKEN = re.compile(rf"""{_RUN}|(?=[^("`{{\[:;&#*@)}}\]\-,])\S+?(?=\s|$|{_CUT}|{_RUN}|,(?=$|\s|{_CUT}|{_RUN}))|\S""")
_REALIGNED = re.compile(r"""["')\]}‘’“”«»]+?(?:\s+|(?=--)|$)""", re.MULTILINE)
_NUMBER = re.compile(r"-?[.,]?\d[\d,.-]*\.?")
_INITIAL = re.compile(r"[^\W\d]\.")


def sentences(text: str) -> list[str]:
    """Cut a text at the ends of its sentences; closing quotes and brackets stay with the sentence they close."""
    breaks = list(_breaks(text))
    starts, ends = [0, *(start for _, start in breaks)], [*(end for end, _ in breaks), len(text.rstrip())]
    spans = list(zip(starts, ends, strict=True))
    found, taken = [], 0  # characters at the start of a sentence that went to the one before
    for i, (start, end) in enumerate(spans):
        start += taken
        closing = _REALIGNED.match(text, *spans[i + 1]) if i + 1 < len(spans) else None
        taken = len(closing.group()) if closing else 0
        if closing:
            end = closing.start() + len(closing.group().rstrip())
        if text[start:end]:
            found.append(text[start:end])
    return found


def _breaks(text: str) -> Iterator[tuple[int, int]]:
    """(end of a sentence, start of the next) at every end but the last.

    A candidate is judged with the word before it and what follows it; of several in one word only the last is.
    """
    word, candidate = 0, None
    for following in _CANDIDATE.finditer(text):
        before = candidate.start() if candidate else 0
        space = max(text.rfind(blank, before, following.start()) for blank in string.whitespace)
        start = space + 1 if space >= 0 else word
        if candidate and start >= before:
            yield from _judged(text, word, candidate)
        word, candidate = start, following
    if candidate:
        yield from _judged(text, word, candidate)


def _judged(text: str, word: int, candidate: re.Match[str]) -> Iterator[tuple[int, int]]:
    tokens = [token for line in text[word : candidate.end(1)].split("\n") for token in _TOKEN.findall(line)]
    if any(_ends_sentence(token, following) for token, following in pairwise(tokens)):
        yield candidate.end(), candidate.start(2) if candidate.group(2) else candidate.end()


def _ends_sentence(token: str, following: str) -> bool:
    """Whether a sentence ends after `token`."""
    if token in (".", "?", "!"):
        return True
    if not token.endswith("."):
        return False
    base, word = token[:-1].lower(), following.lower().removesuffix(".")
    number, initial = bool(_NUMBER.fullmatch(token)), bool(_INITIAL.fullmatch(token))
    if number and word in _AFTER_NUMBER:
        return False
    continues = following in ";:,.!?" or following[0].islower()
    capital = following[0].isupper()
    if initial or number:
        surname = initial and capital and word not in _ORDINARY
        return not (continues or surname or _is_abbreviation(base))
    if token.endswith("..") or _is_abbreviation(base):
        return not continues and capital and (word in _OPENERS or word in _STARTERS)
    return True


def _is_abbreviation(word: str) -> bool:
    return word in _ABBREVIATIONS or word.rsplit("-", 1)[-1] in _ABBREVIATIONS


# Where one run of characters becomes several words, in this order. What only sets punctuation apart from a word is left
# out, since it changes no count of words with letters.
_CONTRACTIONS = {"can": "not", "d": "'ye", "gim": "me", "gon": "na", "got": "ta", "lem": "me", "more": "'n"}
_WORD_CUTS = [
    (re.compile(r"""(?<=[^.])\.(?=[\])}>"'»”’\s]*$)"""), " "),
    (re.compile(r"""[«“‘„»”’`"]|''"""), " "),
    (re.compile(r"(?<!\w)'(?!(?:re|ve|ll|m|t|s|d|n)\b)(?=\w)", re.IGNORECASE), " "),
    (re.compile(r"[:,](?!\d)|\.{2,}|[;@#$%&\u2012-\u2015?!*\]\[(){}<>]|--"), " "),
    (re.compile(r"(?<=[^'\s])'(?= )"), " "),
    (re.compile(r"(?<=[^'\s])('[smd]|')(?!\S)", re.IGNORECASE), r" \1"),
    (re.compile(r"(?<=[^'\s])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T)(?!\S)"), r" \1"),
    *((re.compile(rf"\b({a})({b})\b", re.IGNORECASE), r" \1 \2 ") for a, b in _CONTRACTIONS.items()),
    (re.compile(r"\b(wan)(na)(?!\S)", re.IGNORECASE), r" \1 \2"),
]


def words_in_capitals(text: str) -> int:
    """Words whose letters are all capitals; "NASA'S" and "CANNOT" are two each, "WELL-KNOWN" is one."""
    with_capitals = (sentence for sentence in sentences(text) if sentence != sentence.lower())
    return sum(word.isupper() for sentence in with_capitals for word in _words(sentence))


def _words(sentence: str) -> list[str]:
    for pattern, replacement in _WORD_CUTS:
        sentence = pattern.sub(replacement, sentence)
    return sentence.split()
