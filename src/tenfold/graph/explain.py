"""Answers as pictures: one HTML page with the paths found, and the same paths on matplotlib axes."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tenfold.core.atomic import write_atomic
from tenfold.core.errors import printable
from tenfold.core.report import environment
from tenfold.graph.reasoner import Answer
from tenfold.graph.vocabulary import INVERSE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Point = tuple[float, float]
Curve = tuple[Point, Point, Point, Point]  # the control points of a cubic Bézier curve
MAX_LISTED = 8  # positive actions named at a step; of the others there is a count
BOX = 30.0  # height of an entity's box, in SVG units (CSS pixels at full width)
ROW = 58.0  # from one row to the next
GAP = 56.0  # between two columns of boxes, beside the width of the relations there
SIZE = 13.0  # of names; relations are a size smaller
LONGEST = 24  # columns of a name before it is cut short; the whole stands in its tooltip


def explain_html(answers: Sequence[Answer] | Sequence[Sequence[Answer]], file: str | Path) -> Path:
    """Write one self-contained page: the answers of a query (or of several), their probabilities, paths and a map of all.

    An inverse relation is drawn the way its triple stands in the graph, from right to left. Names are escaped. Nothing
    is loaded from elsewhere and no script runs.

    Args:
        answers: of one query, best first, as `Reasoner.answer` gives them; or a list of these.
        file: the page; its folder must exist.
    Returns:
        its path.
    Raises:
        ValueError: no answers.
    """
    write_atomic(Path(file), explain_page(answers))
    return Path(file)


def explain_page(answers: Sequence[Answer] | Sequence[Sequence[Answer]]) -> str:
    """The page of `explain_html` as text."""
    groups = _groups(answers)
    page: str = _template().render(title="Answers and their paths", queries=[_query(group) for group in groups])
    return page


def plot_paths(answers: Sequence[Answer], ax: Axes, steps: int | None = None) -> None:
    """Draw each answer's path as a chain of arrows, best first, with its probability at the end of the line.

    Args:
        answers: of one query.
        ax: axes to draw on; their frame and ticks are taken away.
        steps: that there is room for; None: as many as the longest path has.
    """
    (answers,) = _groups(answers)
    steps = max(steps or 1, *(len(answer.path) for answer in answers))
    ax.set(xlim=(-0.5, steps + 1.0), ylim=(len(answers) - 0.4, -0.8))
    ax.axis("off")
    ax.set_title(f"{answers[0].source}  –{answers[0].relation}→  ?", loc="left", parse_math=False)
    style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9, "parse_math": False}
    for y, answer in enumerate(answers):
        frames = []
        for x, (name, role) in enumerate(_chain(answer)):
            colour = {"source": "#e8edf4", "answer": "#fbeed0"}.get(role, "#f6f6f4")  # not green: it may be wrong
            box = {"boxstyle": "round,pad=.35", "facecolor": colour, "edgecolor": "#8a94a0", "linewidth": 0.8}
            frames.append(ax.text(x, y, shorten(name, 18), bbox=box, **style).get_bbox_patch())
        for x, (relation, _) in enumerate(answer.path):
            base, inverse = _base(relation)
            arrow = {"arrowstyle": "<|-" if inverse else "-|>", "color": "#5c646e", "shrinkA": 1, "shrinkB": 1}
            # From frame to frame; drawn after the texts, whose frames have a size only then.
            ends = {"patchA": frames[x], "patchB": frames[x + 1]}
            ax.annotate("", (x + 1, y), (x, y), arrowprops={**arrow, **ends}, zorder=4)
            ax.text(x + 0.5, y - 0.14, shorten(base, 18), **{**style, "va": "bottom", "fontsize": 8})
        ax.barh(y, 0.5 * answer.prob, height=0.22, left=steps + 0.45, color="#3f7cc4")
        ax.text(steps + 0.45, y - 0.2, _percent(answer.prob), **{**style, "ha": "left", "va": "bottom", "fontsize": 8})


def shorten(name: str, longest: int = LONGEST) -> str:
    """A name of at most `longest` columns, cut with an ellipsis; wide characters count as two. Controls become spaces."""
    name = " ".join(printable(name).split())
    if _columns(name) <= longest:
        return name
    kept = ""
    for character in name:
        if _columns(kept + character) > longest - 1:
            break
        kept += character
    return kept.rstrip() + "…"


# The page's parts, as the template sees them.


@dataclass(frozen=True)
class Box:
    """An entity on the map; `x`, `y` is the middle of its left side."""

    name: str
    label: str
    role: str  # source, answer or "" for an entity on the way
    x: float
    y: float
    width: float

    @property
    def right(self) -> float:
        return self.x + self.width

    @property
    def middle(self) -> float:
        return self.x + self.width / 2


@dataclass(frozen=True)
class Arrow:
    """A relation on the map: a Bézier curve that ends at its arrowhead, and the middle of its name."""

    curve: Curve
    relation: str
    label: str
    x: float
    y: float
    weight: float  # the greatest probability of an answer that uses it

    @property
    def line(self) -> str:
        return "M{},{} C{},{} {},{} {},{}".format(*(round(number, 1) for point in self.curve for number in point))


def _groups(answers: Sequence[Answer] | Sequence[Sequence[Answer]]) -> list[list[Answer]]:
    groups: Any = [answers] if len(answers) and isinstance(answers[0], Answer) else answers
    if not len(groups) or not all(len(group) for group in groups):
        raise ValueError("answers: got none, need at least one for each query")
    return [list(group) for group in groups]


def _query(answers: list[Answer]) -> dict[str, Any]:
    boxes, arrows = draw_map(answers)
    base, inverse = _base(answers[0].relation)
    return {
        "source": answers[0].source,
        "relation": base,
        "inverse": inverse,
        "isolated": answers[0].isolated,
        "untrained": answers[0].untrained,
        "answers": [_shown(rank, answer) for rank, answer in enumerate(answers, 1)],
        "boxes": boxes,
        "arrows": arrows,
        "width": max(box.right for box in boxes) + 8,
        "height": max(box.y for box in boxes) + BOX / 2 + 8,
    }


def _shown(rank: int, answer: Answer) -> dict[str, Any]:
    chain: list[dict[str, Any]] = []
    for place, (name, role) in enumerate(_chain(answer)):
        if place:
            base, inverse = _base(answer.path[place - 1][0])
            chain.append({"relation": base, "inverse": inverse})
        chain.append({"name": name, "role": role})
    return {"rank": rank, "answer": answer, "percent": _percent(answer.prob), "chain": chain}


def _chain(answer: Answer) -> Iterator[tuple[str, str]]:
    """The entities of a path with their roles; a walk that never moved is its source alone, which is the answer."""
    names = [answer.source, *(entity for _, entity in answer.path)]
    for place, name in enumerate(names):
        yield name, "answer" if place == len(names) - 1 else "source" if place == 0 else ""


def draw_map(answers: Sequence[Answer]) -> tuple[list[Box], list[Arrow]]:
    """All paths as one picture, each entity and each edge once.

    An entity stands in the column of its shortest way from the source, so that no edge leaps over a column. Within a
    column the entities of better answers stand higher.

    Returns:
        the boxes, and the arrows, the heaviest last.
    """
    edges: dict[tuple[str, str, str], float] = {}
    leads_to: dict[str, list[str]] = {}
    for answer in answers:
        here = answer.source
        for relation, entity in answer.path:
            base, inverse = _base(relation)
            edge = (entity, base, here) if inverse else (here, base, entity)
            edges[edge] = max(edges.get(edge, 0.0), answer.prob)
            leads_to.setdefault(here, []).append(entity)
            here = entity
    column = {answers[0].source: 0}
    for here in (waiting := [answers[0].source]):  # breadth first: the list grows while it is read
        for entity in leads_to.get(here, ()):
            if entity not in column:
                column[entity] = column[here] + 1
                waiting.append(entity)
    boxes = _boxes(column, edges, {answer.entity for answer in answers})
    taken = [(box.middle, box.y, box.width, BOX) for box in boxes.values()]
    joined: Counter[frozenset[str]] = Counter()
    arrows = []
    for (start, relation, end), weight in sorted(edges.items(), key=lambda item: -item[1]):
        curve = _curve(boxes[start], boxes[end], joined[frozenset((start, end))])
        joined[frozenset((start, end))] += 1
        label = shorten(relation)
        x, y = _free(curve, _width(label) - 14, taken)
        arrows.append(Arrow(curve, relation, label, x, y, weight))
    return list(boxes.values()), arrows[::-1]


def _boxes(column: dict[str, int], edges: Iterable[tuple[str, str, str]], ends: set[str]) -> dict[str, Box]:
    """The entities in their columns, which stand so far apart that the relations between them can be read."""
    rows: dict[int, list[str]] = {}
    for name, place in column.items():
        rows.setdefault(place, []).append(name)
    tallest = max(map(len, rows.values()))
    boxes: dict[str, Box] = {}
    x = 8.0
    for place, names in sorted(rows.items()):
        width = max(_width(shorten(name)) for name in names)
        for row, name in enumerate(names):
            y = 26 + BOX / 2 + ROW * (row + (tallest - len(names)) / 2)
            role = "answer" if name in ends else "source" if place == 0 else ""
            boxes[name] = Box(name, shorten(name), role, x, y, width)
        wordy = (_width(shorten(name)) for start, name, end in edges if place == min(column[start], column[end]))
        x += width + GAP + max(wordy, default=0.0)
    return boxes


def _curve(start: Box, end: Box, earlier: int) -> Curve:
    """From box to box; `earlier` counts the arrows that already join them, which this one keeps away from."""
    bend = 22.0 * earlier
    if start is end:
        x, y, reach = start.middle, start.y - BOX / 2, 22 + bend
        return (x - 14, y), (x - 24, y - reach), (x + 24, y - reach), (x + 14, y)
    if start.x == end.x:  # one column: a bow on its right side
        x = start.right + 40 + bend
        return (start.right, start.y), (x, start.y), (x, end.y), (end.right, end.y)
    x0, x3 = (start.right, end.x) if start.x < end.x else (start.x, end.right)
    reach = (x3 - x0) * 0.42
    return (x0, start.y), (x0 + reach, start.y + bend), (x3 - reach, end.y + bend), (x3, end.y)


def _free(curve: Curve, width: float, taken: list[tuple[float, float, float, float]]) -> Point:
    """Where a name of this width stands on a curve without lying on another; the place is then taken."""
    places = [_at(curve, share) for share in (0.5, 0.36, 0.64, 0.24, 0.76)]

    def clear(place: Point) -> bool:
        return all(abs(place[0] - x) > (width + w) / 2 or abs(place[1] - y) > (SIZE + h) / 2 for x, y, w, h in taken)

    x, y = next(filter(clear, places), places[0])
    taken.append((x, y, width, SIZE))
    return x, y


def _at(curve: Curve, share: float) -> Point:
    """The point of a cubic Bézier curve."""
    weights = [comb(3, i) * share**i * (1 - share) ** (3 - i) for i in range(4)]
    x, y = (sum(w * point[axis] for w, point in zip(weights, curve, strict=True)) for axis in (0, 1))
    return x, y


def _base(relation: str) -> tuple[str, bool]:
    """A relation's name without the mark of an inverse, and whether it had one."""
    return relation.removesuffix(INVERSE), relation.endswith(INVERSE)


def _columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _width(label: str) -> float:
    """A box wide enough for a label: fonts are not known here, so by a wide one's mean advance."""
    return max(44.0, 0.62 * SIZE * _columns(label) + 18)


def _percent(share: float) -> str:
    return "< 0.1 %" if 0 < share < 0.001 else f"{100 * share:.1f} %"


def _template() -> Any:
    """The page, in the frame and the colours of the run reports."""
    pages = environment()
    pages.globals.update(BOX=BOX, SIZE=SIZE, MAX_LISTED=MAX_LISTED)
    return pages.from_string(PAGE)


PAGE = """
{% extends "page.html" %}
{% block content %}
<style>
.query { font-size: 1.15rem; margin: .4rem 0 1rem; }
.wide { overflow-x: auto; }
.map { width: 100%; height: auto; display: block; margin: 0 auto; }
.map text { font-size: {{ SIZE }}px; fill: var(--ink); }
.map .relation { font-size: {{ SIZE - 1.5 }}px; fill: var(--soft); text-anchor: middle;
  paint-order: stroke; stroke: var(--card); stroke-width: 4px; stroke-linejoin: round; }
.map rect { fill: var(--card); stroke: var(--soft); }
.map .source rect { fill: var(--one-ground); }
.map .answer rect { fill: var(--yes-ground); stroke: var(--yes); }
.map path { fill: none; stroke: var(--link); }
.map marker path { fill: var(--link); stroke: none; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .8rem 1rem; margin: .7rem 0; }
.head { display: flex; flex-wrap: wrap; align-items: baseline; gap: .2rem .7rem; }
.head .name { font-weight: 600; overflow-wrap: anywhere; }
.head .value { margin-left: auto; font-variant-numeric: tabular-nums; }
.bar { height: .45rem; border-radius: 1rem; background: var(--one-ground); margin: .5rem 0 .8rem; overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--link); border-radius: 1rem; }
.chain { display: flex; flex-wrap: wrap; align-items: center; gap: .5rem .15rem; list-style: none; margin: 0; padding: 0; }
.chain .node { border: 1px solid var(--soft); border-radius: 1rem; padding: .1rem .7rem; overflow-wrap: anywhere; min-width: 0; }
.chain .source { background: var(--one-ground); }
.chain .answer { background: var(--yes-ground); border-color: var(--yes); }
.chain .link { display: flex; align-items: center; color: var(--soft); font-size: .84rem; min-width: 0; }
.chain .link::before, .chain .link::after { content: ""; border-top: 1.5px solid var(--link); width: 1rem; flex: none; }
.chain .link b { font-weight: 400; padding: 0 .3rem; overflow-wrap: anywhere; min-width: 0; }
.chain .tip { flex: none; border: 5px solid transparent; }
.chain .right { border-left-color: var(--link); border-right: 0; order: 1; }
.chain .left { border-right-color: var(--link); border-left: 0; order: -1; }
.card .steps { margin: .7rem 0 0; }
.steps td { overflow-wrap: anywhere; }
</style>
<h1>{{ title }}</h1>
{% macro link(relation, inverse) %}
<li class="link" title="{{ relation }}{{ ', read from right to left' if inverse }}"><b>{{ relation }}</b><span class="tip {{ 'left' if inverse else 'right' }}"></span></li>
{% endmacro %}
{% for query in queries %}
<section class="run">
<ol class="chain query">
<li class="node source">{{ query.source }}</li>
{{ link(query.relation, query.inverse) }}
<li class="node">?</li>
</ol>
{% if query.untrained %}<p><span class="mark no">untrained</span> The walker was never trained to answer this relation: do not trust its probabilities.</p>{% endif %}
{% if query.isolated %}<p><span class="mark no">isolated</span> No edge of the graph touches this entity: it can only answer with itself.</p>{% endif %}
<div class="card wide">
<svg class="map" viewBox="0 0 {{ query.width | round(1) }} {{ query.height | round(1) }}" style="max-width: {{ query.width | round }}px; min-width: min({{ query.width | round }}px, 40rem)" role="img" aria-label="the paths of all answers">
<defs><marker id="tip{{ loop.index }}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" markerUnits="userSpaceOnUse" orient="auto"><path d="M0,0 L8,4 L0,8 z"/></marker></defs>
{% set tip = loop.index %}
{% for arrow in query.arrows %}
<path d="{{ arrow.line }}" stroke-width="{{ (1 + 2.5 * arrow.weight) | round(2) }}" stroke-opacity="{{ (0.45 + 0.55 * arrow.weight) | round(2) }}" marker-end="url(#tip{{ tip }})"><title>{{ arrow.relation }}</title></path>
{% endfor %}
{% for box in query.boxes %}
<g class="{{ box.role }}"><title>{{ box.name }}</title><rect x="{{ box.x | round(1) }}" y="{{ (box.y - BOX / 2) | round(1) }}" width="{{ box.width | round(1) }}" height="{{ BOX }}" rx="8"/><text x="{{ box.middle | round(1) }}" y="{{ (box.y + SIZE * 0.36) | round(1) }}" text-anchor="middle">{{ box.label }}</text></g>
{% endfor %}
{% for arrow in query.arrows %}
<text class="relation" x="{{ arrow.x | round(1) }}" y="{{ (arrow.y + SIZE * 0.33) | round(1) }}">{{ arrow.label }}</text>
{% endfor %}
</svg>
</div>
{% for shown in query.answers %}
{% set answer = shown.answer %}
<div class="card">
<div class="head"><span class="soft">{{ shown.rank }}</span><span class="name">{{ answer.entity }}</span>
{% if answer.known %}<span class="mark yes">known</span>{% endif %}
<span class="value">{{ shown.percent }}</span></div>
<div class="bar" role="img" aria-label="probability {{ shown.percent }}"><i style="width: {{ (100 * answer.prob) | round(2) }}%"></i></div>
<ol class="chain">
{% for part in shown.chain %}
{% if part.name is defined %}
<li class="node {{ part.role }}">{{ part.name }}</li>
{% else %}
{{ link(part.relation, part.inverse) }}
{% endif %}
{% endfor %}
{% if not answer.path %}<li class="soft">&nbsp; stays where it is: the answer is the entity itself</li>{% endif %}
</ol>
{% if answer.steps %}
<details class="steps"><summary>a training triple: the actions that can still end on {{ answer.entity }}, step by step</summary>
<div class="scroll" tabindex="0"><table>
<tr><th>at</th><th>taken</th><th class="n">positive</th><th>which</th></tr>
{% for step in answer.steps %}
<tr><td>{{ step.node }}</td><td>{{ step.relation }} → {{ step.entity }}</td><td class="n">{{ step.positive | length }} of {{ step.actions }}</td>
<td>{% for relation, entity in step.positive[:MAX_LISTED] %}{{ relation }} → {{ entity }}{{ "; " if not loop.last }}{% endfor %}{% if step.positive | length > MAX_LISTED %} and {{ step.positive | length - MAX_LISTED }} more{% endif %}</td></tr>
{% endfor %}
</table></div></details>
{% endif %}
</div>
{% endfor %}
</section>
{% endfor %}
{% endblock %}
""".lstrip()
