"""Main text comes out of pages of every kind, hostile ones too; furniture does not."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.core.errors import UserError
from tenfold.text.html import clean_html, is_html

LONG = "The river ran high that spring, and nobody in the village could remember when the bridge had last been open."
PAGE = f"""<!DOCTYPE html>
<html><head><title>Title</title><style>p {{ color: red }}</style><script>var x = "<p>code</p>";</script></head>
<body>
<nav><a href="/">Home</a> Navigation of this long and wordy site, which nobody reads, and which has twenty words or so</nav>
<div class="menu"><a href="/a">News</a> | <a href="/b">Sport</a> | <a href="/c">Weather</a></div>
<h1>Flood &amp; bridge</h1>
<div>By A. Writer</div>
<p>{LONG}</p><!-- a comment of many words that must not come through, whatever its length may be, not at all -->
<p>Caf&eacute;s &#8364;5, <b>bold</b>face and a <a href="/d">link</a>.<br>Second line.</p>
<h2>Related</h2>
<ul><li><a href="/e">Another flood in another village</a></li><li><a href="/f">Bridges of the world</a></li></ul>
<form>Search this site for words and more words: <input name="q"><button>Go</button></form>
<footer>{LONG}</footer>
<p hidden>{LONG}</p><div style="color: red; DISPLAY:none">{LONG}</div>
</body></html>"""


def test_a_page_by_hand() -> None:
    second = "Cafés €5, boldface and a link.\nSecond line."
    assert clean_html(PAGE).split("\n\n") == ["Flood & bridge", "By A. Writer", LONG, second, "Related"]


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("", ""),
        (" \n ", ""),
        ("<p>Hello</p>", "Hello"),
        ("plain &lt;b&gt; text", "plain <b> text"),
        ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
        ("<p>one<p>two</div></p>three", "one\n\ntwo\n\nthree"),
        ("<p>a \n b\t c&nbsp;d</p>", "a b c d"),
        ("<pre>  def f():\n      return 1\n</pre>", "  def f():\n      return 1"),
        ("<td>cell</td>", "cell"),
        ("a\0b<p>c\x08d</p>", "ab\n\ncd"),
        ("a\ud800b", "a?b"),
        ("<p>seen<!-- never closed <p>lost", "seen"),
        ("<p>seen<script>never closed <p>lost", "seen"),
        ("<svg><text>no</text></svg><noscript>no</noscript><textarea>no</textarea>yes", "yes"),
        ("<a href=x>only a link</a>", ""),
        ("<form>Search here: <input></form>", ""),
    ],
)
def test_fragments(html: str, text: str) -> None:
    assert clean_html(html) == text


def test_links_weigh_by_their_share() -> None:
    mostly = f"<div>{LONG} <a href=x>{LONG}</a></div>"
    assert clean_html(f"<p>{LONG}</p>{mostly}<p>{LONG}</p>") == f"{LONG}\n\n{LONG}"
    assert "link" in clean_html(f"<p>{LONG} <a href=x>link</a></p>")


def test_a_paragraph_behind_a_bar_of_links_stays() -> None:
    bar = "<div><a href=x>Home</a> <a href=y>News</a></div>"
    body = f"<p>{LONG} {LONG} {LONG}</p>"
    assert clean_html(f"{bar}<p>{LONG}</p>{bar}{body}").startswith(f"{LONG}\n\n")
    assert clean_html(f"{bar}<div>{LONG}</div>{bar}{body}") == f"{LONG} {LONG} {LONG}"


def test_short_blocks_stay_beside_long_ones_only() -> None:
    tags = "<div>Print</div><div>Share this</div><div>12 comments</div>"
    assert clean_html(f"{tags}<p>{LONG}</p><p>The end.</p>{tags}") == f"12 comments\n\n{LONG}\n\nThe end."


def test_a_form_around_the_page_is_the_page() -> None:
    outside = "<div><a href=x>Banner</a></div>"
    assert clean_html(f"{outside}<form action=x><p>{LONG}</p><p>{LONG} Again.</p></form>") == f"{LONG}\n\n{LONG} Again."
    assert clean_html(f"{outside}<p>{LONG}</p><form action=x><p>{LONG}</p></form>") == LONG


def test_scripts_without_spaces_have_words() -> None:
    chinese = "这条河在那年春天涨得很高村里没有人记得桥最后一次开放是什么时候" * 5
    tags = "<div>打印</div><div>分享</div><div>评论</div>"
    assert clean_html(f"{tags}<p>{chinese}</p>") == f"评论\n\n{chinese}"


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>naïve €</p>".encode(), "naïve €"),
        ("<p>naïve €</p>".encode("cp1252"), "naïve €"),
        ("<p>naïve €</p>".encode("utf-8-sig"), "naïve €"),
        ("<p>naïve €</p>".encode("utf-16"), "naïve €"),
        ("<p>naïve €</p>".encode("utf-32"), "naïve €"),
        ('<meta charset="koi8-r"><p>мир</p>'.encode("koi8-r"), "мир"),
        ("<META http-equiv=Content-Type content='text/html; charset=Shift_JIS'><p>橋</p>".encode("shift-jis"), "橋"),
        (b'<meta charset="iso-8859-1"><p>\x80</p>', "€"),  # as browsers read it
        (b'<meta charset="utf-8"><p>caf\xe9</p>', "café"),  # the page lies
        (b'<meta charset="no-such"><p>caf\xe9</p>', "café"),
        (b'<meta charset="punycode"><p>a-b</p>', "a-b"),  # a codec of Python's, but of no page
        (b'<meta charset="zlib"><p>x</p>', "x"),
        (b"<p>\x81\xff</p>", "\ufffdÿ"),
    ],
)
def test_encodings(html: bytes, text: str) -> None:
    assert clean_html(html) == text


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<div>" * 50_000 + "deep" + "</div>" * 50_000, "deep"),
        ("<b>" * 50_000 + "deep", "deep"),
        ("<a href=x>" * 50_000 + "deep", ""),
        ("<table><tr><td>" * 20_000 + "deep", "deep"),
        ("<" * 1_000_000, "<" * 1_000_000),
        ("&" * 1_000_000, "&" * 1_000_000),
        ("x" * 1_000_000, "x" * 1_000_000),
        ("<p " + "a=b " * 200_000 + ">x", "x"),
        ("<p>x</p>" + '<p a="' * 100_000, "x"),
        ("</p>" * 200_000 + "x", None),
        ("<!--" * 200_000 + "x", ""),
        ("<p>x" * 100_000, "\n\n".join("x" * 100_000)),
    ],
    ids=lambda value: repr(value)[:12],
)
def test_hostile_pages(html: str, text: str | None) -> None:
    cleaned = clean_html(html)
    assert text is None or cleaned == text


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(), st.binary(), st.text("<>/!-=\"'&; abpdivnscriptform\n", max_size=80)))
def test_anything_gives_text(html: str | bytes) -> None:
    text = clean_html(html)
    assert isinstance(text.encode("utf-8"), bytes)
    assert "\0" not in text


@pytest.mark.parametrize(
    ("text", "page"),
    [
        (PAGE, True),
        ("\ufeff\n<HTML><p>x", True),
        ("<?xml version='1.0'?><html>", True),
        ("<table><tr><td>x", True),
        ("Use the <html> tag first.", False),
        ("<speaker> Hello <html>", True),
        ("<speaker> Hello", False),
        ("", False),
        (" " * 2000 + "<html>", False),
    ],
)
def test_is_html(text: str, page: bool) -> None:
    assert is_html(text) is page


def test_without_lxml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lxml", None)
    with pytest.raises(UserError, match=r"needs the package lxml: pip install 'tenfold\[data\]'"):
        clean_html("<p>x</p>")
