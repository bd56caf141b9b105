"""Main text of a web page: blocks of running text are kept, navigation and furniture go.

lxml reads the page as events: it mends malformed HTML as browsers do, is linear in the page and, since no tree is
built, has no depth to run out of.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from typing import NamedTuple

from tenfold.core.errors import UserError

_SKIPPED = (
    "script style noscript template title nav footer menu iframe object applet svg math canvas audio video "
    "button select option textarea label legend datalist"
)
_INLINE = (
    "a abbr acronym b bdi bdo big cite code data del dfn em font i img input ins kbd mark nobr q rp rt ruby s samp "
    "small span strike strong sub sup time tt u var wbr"
)
SKIPPED = frozenset(_SKIPPED.split())
INLINE = frozenset(_INLINE.split())
HEADINGS = frozenset(("h1", "h2", "h3", "h4", "h5", "h6"))
# Charsets that pages name. Python knows more codecs, among them compressors and ones that take quadratic time.
CHARSETS = re.compile(
    r"utf-?8|us-ascii|ascii|iso-?8859-\d{1,2}|latin-?1|windows-125\d|windows-874|cp125\d|koi8-[ru]|macintosh|gbk|gb2312|"
    r"gb18030|big5(-hkscs)?|euc-(jp|kr)|shift[_-]jis|iso-2022-jp|tis-620",
    re.IGNORECASE,
)
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it starts with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_META_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w-]{2,20})""", re.IGNORECASE)
_PAGE_TAG = re.compile(r"<(!doctype\s+html|html|head|body|meta|table|div|p|center|font)\b", re.IGNORECASE)
_CONTROL = dict.fromkeys([*range(9), 11, 12, *range(14, 32), 127])
_HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)


def clean_html(html: str | bytes) -> str:
    """The body text of a page, its paragraphs divided by empty lines.

    Scripts, styles, navigation, footers, controls, hidden parts and comments are dropped, and so are forms, save one
    that wraps the page. Of the rest a block is kept by its number of words, its share of link text, and those of its
    neighbours; where that leaves no long block, every block stays that is not mostly links.

    Args:
        html: the page; bytes are decoded by their byte-order mark, the charset the page names, or else as UTF-8 or
            windows-1252. Malformed, cut off or hostile input gives some text, in time linear in its length.
    Raises:
        UserError: the package lxml is not installed.
    Source: after Kohlschütter, Fankhauser and Nejdl, Boilerplate Detection using Shallow Text Features, 2010.
    """
    blocks = _blocks(_decode(html).translate(_CONTROL))
    long_outside, long_in_form = (
        sum(block.long for block in blocks if block.in_form is form) for form in (False, True)
    )
    if long_outside >= long_in_form:  # else some page systems put the whole page into one form
        blocks = [block for block in blocks if not block.in_form]
    return "\n\n".join(block.text for block, kept in zip(blocks, _content(blocks), strict=True) if kept)


def is_html(text: str) -> bool:
    """Whether a text is a page rather than plain text: it opens with a tag, and its first 1000 characters lay out."""
    start = text[:1000].lstrip("\ufeff \t\r\n")
    return start.startswith("<") and _PAGE_TAG.search(start) is not None


class _Block(NamedTuple):
    text: str
    words: int
    link_share: float  # of the characters
    tag: str  # of the element that the block opens in, "" behind an inner one
    in_form: bool

    @property
    def long(self) -> bool:
        return self.words > 16 and not self.link_heavy

    @property
    def link_heavy(self) -> bool:
        return self.link_share > 1 / 3


_EDGE = _Block("", 0, 0.0, "", in_form=False)


def _content(blocks: list[_Block]) -> list[bool]:
    """Which blocks are running text: the tree that the source learnt on words and link share of three in a row."""
    content = []
    for before, block, after in zip([_EDGE, *blocks], blocks, [*blocks[1:], _EDGE], strict=False):
        if block.link_heavy:
            content.append(False)
        elif before.link_share <= 5 / 9:
            content.append(block.words > 16 or after.words > 15 or before.words > 4)
        else:
            # The source, which does not look at tags, loses the paragraph that stands alone behind a bar of links.
            content.append(block.words > (16 if block.tag == "p" else 40) or after.words > 17)
    if not any(kept and block.long for kept, block in zip(content, blocks, strict=True)):
        return [not block.link_heavy for block in blocks]
    for index in reversed(range(len(blocks) - 1)):  # a heading belongs to what it stands over
        content[index] |= blocks[index].tag in HEADINGS and content[index + 1]
    return content


def _blocks(html: str) -> list[_Block]:
    try:
        from lxml import etree  # type: ignore[import-untyped]
    except ImportError as error:
        raise UserError("clean_html needs the package lxml: pip install 'tenfold[data]'") from error
    page = _Page()
    parser = etree.HTMLParser(target=page, encoding="utf-8", huge_tree=True)
    try:
        parser.feed(html.encode("utf-8", "replace"))
        parser.close()
    except etree.LxmlError:  # nothing in it, or what no parser can mend: what was read stands
        page.close()
    return page.blocks


class _Page:
    """Receives the parser's events and cuts the text into blocks at every tag that is not inline."""

    def __init__(self) -> None:
        self.blocks: list[_Block] = []
        self._parts: list[str] = []
        self._link_characters = 0
        self._skipped = 0  # open elements from the outermost skipped one on
        self._links = self._forms = self._preformatted = 0
        self._tag = ""

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        if self._skipped or tag in SKIPPED or "hidden" in attributes or _HIDDEN.search(attributes.get("style", "")):
            self._skipped += 1
            return
        if tag == "br":
            self._parts.append("\n")
        elif tag not in INLINE:
            self._finish_block()
            self._tag = tag
        self._count(tag, 1)

    def end(self, tag: str) -> None:
        if self._skipped:
            self._skipped -= 1
            return
        if tag != "br" and tag not in INLINE:
            self._finish_block()
            self._tag = ""
        self._count(tag, -1)

    def data(self, text: str) -> None:
        if self._skipped:
            return
        self._parts.append(text if self._preformatted else text.replace("\n", " "))
        if self._links:
            self._link_characters += len("".join(text.split()))

    def close(self) -> None:
        self._finish_block()

    def _count(self, tag: str, change: int) -> None:
        self._links += change * (tag == "a")
        self._forms += change * (tag == "form")
        self._preformatted += change * (tag in ("pre", "xmp", "listing"))

    def _finish_block(self) -> None:
        text = "".join(self._parts)
        words = text.split()
        if words:
            characters = sum(map(len, words))
            lines = text.split("\n")
            lines = [line.rstrip() if self._preformatted else " ".join(line.split()) for line in lines]
            text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")
            # Scripts without spaces write a word in about two characters; no language takes eight on average.
            count = max(len(words), characters // 8)
            share = self._link_characters / characters
            self.blocks.append(_Block(text, count, share, self._tag, self._forms > 0))
        self._parts, self._link_characters = [], 0


def _decode(html: str | bytes) -> str:
    if isinstance(html, str):
        return html
    for mark, encoding in BYTE_ORDER_MARKS:
        if html.startswith(mark):
            return html[len(mark) :].decode(encoding, "replace")
    named = _META_CHARSET.search(html[:4096])
    encodings = ["utf-8"]
    if named and CHARSETS.fullmatch(charset := named[1].decode("ascii")):
        # What calls itself Latin-1 on the web is windows-1252, its superset.
        encodings.insert(
            0, "cp1252" if charset.lower() in ("iso-8859-1", "iso8859-1", "latin1", "latin-1") else charset
        )
    for encoding in encodings:
        try:
            return html.decode(encoding)
        except (UnicodeDecodeError, LookupError):
            continue
    return html.decode("cp1252", "replace")
