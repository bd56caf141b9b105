"""The page and the picture of answers: whole, self-contained, escaped, and true to the paths."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tenfold.graph.explain import BOX, Box, draw_map, explain_html, plot_paths, shorten
from tenfold.graph.reasoner import Answer, Step

HOSTILE = "</svg><script>alert('1')</script> \"quoted\" & $x_{"


def answer(entity: str, prob: float, *path: tuple[str, str], **fields: object) -> Answer:
    return Answer("aspirin", "treats", entity, -1.0, prob, list(path), **fields)  # type: ignore[arg-type]


STEPS = [Step("aspirin", "inhibits", "cox", [("inhibits", f"thing {i}") for i in range(11)], 57)]
ANSWERS = [
    answer("pain", 0.6, ("inhibits", "cox"), ("causes_inv", "pain"), known=True, steps=STEPS),
    answer("fever", 0.25, ("inhibits", "cox"), ("a", HOSTILE), (HOSTILE, "fever")),
    answer("ibuprofen", 0.1, ("resembles", "ibuprofen"), ("same_as", "ibuprofen")),
    answer("cold", 0.0499, ("resembles", "ibuprofen"), ("near", "cox"), ("r", "cold")),
    answer("aspirin", 0.0001),
]


class Page(HTMLParser):
    """The elements of a page and the text in it; every element must be closed in its turn."""

    VOID = ("meta",)

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.text.append(data.strip())

    def classes(self, name: str) -> list[dict[str, str | None]]:
        return [attrs for _, attrs in self.elements if name in (attrs.get("class") or "").split()]


@pytest.fixture
def html(tmp_path: Path) -> str:
    return explain_html(ANSWERS, tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_page_is_whole_and_stands_alone(html: str) -> None:
    page = Page(html)
    assert not {tag for tag, _ in page.elements} & {"script", "link", "img", "iframe", "object"}
    assert not any(name in attrs for _, attrs in page.elements for name in ("src", "href", "onload", "onclick"))
    assert set(re.findall(r"url\((.*?)\)", html)) == {"#tip1"}
    assert "http" not in html and "@import" not in html
    ElementTree.fromstring(html[html.index("<svg") : html.index("</svg>") + 6])


def test_names_are_escaped(html: str) -> None:
    page = Page(html)
    assert "<script" not in html
    assert page.text.count(HOSTILE) == 4  # as an entity and as a relation, in the chain and as a tooltip of the map
    assert len(page.classes("link")[2]["title"] or "") and any(a.get("title") == HOSTILE for a in page.classes("link"))


def test_chains_follow_the_paths(html: str) -> None:
    page = Page(html)
    assert [len(page.classes(kind)) for kind in ("right", "left")] == [1 + 1 + 3 + 2 + 3, 1]
    assert any(attrs["title"] == "causes, read from right to left" for attrs in page.classes("link"))
    assert "stays where it is: the answer is the entity itself" in " ".join(page.text)
    assert len(page.classes("bar")) == len(ANSWERS)
    widths = re.findall(r'<i style="width: ([\d.]+)%">', html)
    assert list(map(float, widths)) == [60, 25, 10, 4.99, 0.01]
    assert {"60.0 %", "< 0.1 %"} <= set(page.text)


def test_marks_and_steps(html: str) -> None:
    page = Page(html)
    assert page.text.count("known") == 1 and "isolated" not in page.text
    assert "11 of 57" in page.text
    (named,) = (text for text in page.text if text.startswith("inhibits → thing 0"))
    assert named.endswith("thing 7 and 3 more")


def test_several_queries_and_an_isolated_one(tmp_path: Path) -> None:
    lonely = Answer("zinc", "is_a_inv", "zinc", 0.0, 1.0, [], isolated=True)
    page = Page(explain_html([ANSWERS, [lonely]], tmp_path / "page.html").read_text())
    assert len(page.classes("query")) == 2
    assert "isolated" in page.text
    assert len({attrs["id"] for tag, attrs in page.elements if tag == "marker"}) == 2


@pytest.mark.parametrize("nothing", [[], [[]], [ANSWERS, []]])
def test_no_answers_no_page(nothing: list[list[Answer]], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="answers: got none"):
        explain_html(nothing, tmp_path / "page.html")
    assert not any(tmp_path.iterdir())


def test_the_map_holds_each_entity_and_each_edge_once() -> None:
    boxes, arrows = draw_map(ANSWERS)
    place = {box.name: box for box in boxes}
    assert len(place) == len(boxes) == 7
    assert len(arrows) == 8
    edges = {(arrow.relation, arrow.weight) for arrow in arrows}
    assert ("inhibits", 0.6) in edges and ("resembles", 0.1) in edges  # by the best answer that uses it
    columns = sorted({box.x for box in boxes})
    assert [columns.index(place[name].x) for name in ("aspirin", "cox", "ibuprofen", "pain", "cold", "fever")] == [
        0,
        1,
        1,
        2,
        2,
        3,
    ]
    assert {box.name for box in boxes if box.role == "answer"} == {a.entity for a in ANSWERS}
    (causes,) = (arrow for arrow in arrows if arrow.relation == "causes")
    assert causes.curve[0] == (place["pain"].x, place["pain"].y)  # the triple leads from pain to cox
    assert causes.curve[-1] == (place["cox"].right, place["cox"].y)


def overlap(one: Box, two: Box) -> bool:
    return one.x < two.right and two.x < one.right and abs(one.y - two.y) < BOX


def test_boxes_and_names_do_not_overlap() -> None:
    many = [answer(f"answer {i}", 0.1, ("r", f"way {i % 4}"), ("s", f"answer {i}")) for i in range(12)]
    ways = [("x", "first"), ("x", "second"), ("y", "first")]  # the last two cross in their middles
    crossing = [answer(end, 0.3, ("r", way), (f"{way} to {end}", end)) for way, end in ways]
    for boxes, arrows in map(draw_map, (ANSWERS, many, crossing)):
        assert not any(overlap(one, two) for one, two in combinations(boxes, 2))
        assert len({(round(arrow.x), round(arrow.y)) for arrow in arrows}) == len(arrows)


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("pain", "pain"),
        ("a" * 24, "a" * 24),
        ("a" * 25, "a" * 23 + "…"),
        ("痛" * 12, "痛" * 12),
        ("痛" * 13, "痛" * 11 + "…"),
        ("two\nlines\tand \x00 nul", "two lines and nul"),
        ("back\u202ewards", "back wards"),
        ("", ""),
    ],
)
def test_names_are_cut_short(name: str, short: str) -> None:
    assert shorten(name) == short


def test_plot_draws_every_path() -> None:
    figure = Figure()
    axes = figure.add_subplot()
    plot_paths([*ANSWERS, answer("$x_{$", 0.0, ("$^$", "$x_{$"))], axes)
    FigureCanvasAgg(figure).draw()  # would raise if a name were read as a formula
    texts = [text.get_text() for text in axes.texts]
    assert texts.count("aspirin") == 6 and texts.count("causes") == 1
    assert [text for text in texts if text.endswith("%")] == ["60.0 %", "25.0 %", "10.0 %", "5.0 %", "< 0.1 %", "0.0 %"]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([*(a.prob / 2 for a in ANSWERS), 0])
    with pytest.raises(ValueError, match="answers: got none"):
        plot_paths([], axes)
