"""The report: one self-contained HTML page from the files of a run folder, finished or not."""

from __future__ import annotations

import base64
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tenfold.core.atomic import checked_name, write_atomic
from tenfold.core.claims import Claim
from tenfold.core.config import read_object, restore_non_finite
from tenfold.core.errors import UserError

if TYPE_CHECKING:
    from jinja2 import Environment

MAX_PANELS = 6  # curves of more metrics than this crowd the page; the rest stays in metrics.jsonl
MAX_LEGEND = 8  # more names than this hide the curves
_NO_CURVES = ("step", "seconds", "weight")  # the axis, the clock, and the number of targets
_FIRST_METRICS = ("loss", "validation_loss", "val_loss")  # drawn first where they exist


@dataclass(frozen=True)
class Section:
    """One run as the template sees it. Figures are data URLs; `summary` is the text of that name."""

    about: Mapping[str, Any]
    config: Sequence[tuple[str, str]]
    finished: bool
    seconds: float
    seeds: str
    claims: Sequence[Claim]
    summary: str | None
    items: Sequence[Mapping[str, Any]]
    curves: Mapping[str, Any] | None


@dataclass(frozen=True)
class Entry:
    """One card of a report over several runs.

    Args:
        name, title: of it.
        run: its folder; None where there is none.
        note: why it is not whole.
        purpose: what it is for.
        picture: name of the figure on the card; the first one where the run has none of that name.
        go_on: commands to try next, and what for.
    """

    name: str
    title: str
    run: Path | None
    note: str | None = None
    purpose: str = ""
    picture: str = ""
    go_on: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Card:
    """An entry as the template sees it."""

    entry: Entry
    section: Section | None
    link: str | None
    picture: Mapping[str, Any] | None

    @property
    def state(self) -> str:
        """ "done", "failed" where there is a note, or "waiting"."""
        return (
            "done" if self.section is not None and self.section.finished else "failed" if self.entry.note else "waiting"
        )


def write(run: Path) -> Path:
    """Write `report.html` into a run folder.

    Returns:
        its path.
    """
    path = run / "report.html"
    section = read_section(run)
    html = environment().get_template("report.html").render(section=section, title=section.about["title"])
    write_atomic(path, html)
    return path


def write_collection(path: Path, title: str, entries: Sequence[Entry]) -> Path:
    """Write one page over several runs: a card each, then each run's whole report.

    Args:
        path: the HTML file.
        title: its heading.
        entries: in order; one without a run is listed with its note.
    Returns:
        `path`.
    """
    cards = [_card(path, entry) for entry in entries]
    claims = [claim for card in cards if card.section is not None for claim in card.section.claims]
    html = (
        environment()
        .get_template("collection.html")
        .render(
            title=title,
            cards=cards,
            total=sum(card.section.seconds for card in cards if card.section is not None),
            done=sum(card.state == "done" for card in cards),
            ahead=sum(claim.ahead for claim in claims),
            count=len(claims),
        )
    )
    write_atomic(path, html)
    return path


def _card(page: Path, entry: Entry) -> Card:
    if entry.run is None:
        return Card(entry, None, None, None)
    section = read_section(entry.run)
    figures = [item for item in section.items if item["kind"] == "figure"]
    chosen = [item for item in figures if item["name"] == entry.picture] or figures
    return Card(entry, section, _link(page, entry.run / "report.html"), chosen[0] if chosen else None)


def _link(page: Path, target: Path) -> str | None:
    """The relative address of a file from a page; None where there is no such file yet."""
    return Path(os.path.relpath(target, page.parent)).as_posix() if target.exists() else None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; none where there is no file yet. A torn last line, left by a crash, is ignored.

    Raises:
        UserError: a broken line before the last, with its number.
    """
    if not path.exists():
        return []
    *lines, _torn = path.read_bytes().split(b"\n")  # after the last newline stands nothing, or a torn line
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = restore_non_finite(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: got {type(row).__name__}, need an object")
        rows.append(row)
    return rows


def read_about(run: Path) -> dict[str, Any]:
    """run.json of a run folder; UserError where it is damaged."""
    fields = ("recipe", "preset", "title", "created", "command", "machine")
    return read_object(run / "run.json", **dict.fromkeys(fields, str), versions=dict)


def read_items(run: Path) -> tuple[list[dict[str, Any]], list[Claim]]:
    """Texts, figures and tables, and the claims, of a run's items.json; none where there is no file yet.

    Raises:
        UserError: one of them is damaged.
    """
    file = run / "items.json"
    if not file.exists():
        return [], []
    saved = read_object(file, items=list, claims=list)
    for item in saved["items"]:
        needed = ("kind", "name", "text") if isinstance(item, dict) and item.get("kind") == "text" else ("kind", "name")
        if not isinstance(item, dict) or not all(isinstance(item.get(name), str) for name in needed):
            raise UserError(f"{file}: an item without {', '.join(needed)}; the file is damaged")
    try:
        return saved["items"], [Claim.from_json(claim) for claim in saved["claims"]]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"{file}: a damaged claim: {type(error).__name__}: {error}") from None


def read_section(run: Path) -> Section:
    """Collect what a run folder holds by now."""
    about = read_about(run)
    config = read_object(run / "config.json")
    result, clock = (
        read_object(run / name, seconds=int | float) if (run / name).exists() else None
        for name in ("result.json", "clock.json")
    )
    items, claims = read_items(run)
    texts = {item["name"]: item["text"] for item in items if item["kind"] == "text"}
    return Section(
        about=about,
        config=_flat(restore_non_finite(config)),
        finished=result is not None,
        seconds=(result or clock or {"seconds": 0.0})["seconds"],
        seeds=_seeds(config),
        claims=claims,
        summary=texts.get("summary"),
        items=[_filled(run, item) for item in items if item["name"] != "summary" or item["kind"] != "text"],
        curves=_curves(read_metrics(run / "metrics.jsonl")),
    )


def _filled(run: Path, item: Mapping[str, Any]) -> dict[str, Any]:
    """An item with its contents: a figure's picture, a table's rows."""
    if item["kind"] == "figure":
        return {**item, **_picture((run / "figures" / f"{checked_name(item['name'])}.png").read_bytes())}
    if item["kind"] == "table":
        file = run / "tables" / f"{checked_name(item['name'])}.json"
        table = restore_non_finite(read_object(file, columns=list, rows=list))
        if not all(isinstance(row, dict) for row in table["rows"]) or not all(
            isinstance(c, str) for c in table["columns"]
        ):
            raise UserError(f"{file}: need names of columns, and rows that are objects; the file is damaged")
        rows = [[row.get(column) for column in table["columns"]] for row in table["rows"]]
        right = [all(_is_number(value) for value in column) for column in zip(*rows, strict=True)]
        return {**item, **table, "rows": rows, "right": right}
    return dict(item)


def _picture(png: bytes) -> dict[str, Any]:
    """A PNG of 150 dots an inch as a data URL, with the width in CSS pixels at which its text has its true size."""
    width = int.from_bytes(png[16:20], "big")  # the header's first field
    source = "data:image/png;base64," + base64.b64encode(png).decode("ascii")
    return {"source": source, "width": round(width * 96 / 150)}


def _seeds(config: Mapping[str, Any]) -> str:
    seeds = config.get("seed", config.get("seeds"))
    if seeds is None:
        return "not named in the config"
    return ", ".join(map(str, seeds)) if isinstance(seeds, list) else str(seeds)


def _flat(config: Any, prefix: str = "") -> list[tuple[str, str]]:
    """A nested config as (dotted name, value) pairs."""
    if isinstance(config, dict):
        pairs = config.items()
    elif isinstance(config, list) and any(isinstance(item, dict) for item in config):
        pairs = {str(index): item for index, item in enumerate(config)}.items()
    else:
        return [(prefix, json.dumps(config, ensure_ascii=False))]
    return [pair for key, value in pairs for pair in _flat(value, f"{prefix}.{key}" if prefix else key)]


def _curves(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Every logged number over steps, a line a model, as one picture; None where nothing has two points."""
    series: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in rows:
        if not isinstance(row.get("step"), int):
            continue
        for key, value in row.items():
            if key not in _NO_CURVES and value is not None and _is_number(value) and math.isfinite(value):
                series.setdefault(key, {}).setdefault(str(row.get("model", "")), []).append((row["step"], value))
    drawn = [key for key, lines in series.items() if any(len(points) > 1 for points in lines.values())]
    drawn.sort(key=lambda key: _FIRST_METRICS.index(key) if key in _FIRST_METRICS else len(_FIRST_METRICS))
    drawn = drawn[:MAX_PANELS]
    if not drawn:
        return None

    from matplotlib.figure import Figure

    columns = min(len(drawn), 3)
    lines = -(-len(drawn) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.5 * lines), layout="constrained")
    for number, key in enumerate(drawn, start=1):
        axes = figure.add_subplot(lines, columns, number)
        for model, points in series[key].items():
            axes.plot(*zip(*points, strict=True), label=model or None, linewidth=1.3)
        axes.set_title(key, fontsize=10, loc="left")
        axes.set_xlabel("step", fontsize=9)
        axes.tick_params(labelsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        if number == 1 and any(series[key]) and len(series[key]) <= MAX_LEGEND:
            axes.legend(fontsize=8, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return _picture(buffer.getvalue())


# How the template writes figures.


def number(value: Any) -> str:
    """A table cell: four significant digits, whole numbers in full with thin spaces, an absent value as a dash."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    value = restore_non_finite(value)
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f") if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        if value.is_integer() and abs(value) < 10_000:
            return f"{value:.0f}"
        return f"{value:.4g}".replace("-", "−", 1) if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return value.replace(" ± ", "\u00a0±\u00a0")  # a mean and its interval stay on one line
    return json.dumps(value, ensure_ascii=False)


def duration(seconds: float) -> str:
    """Seconds in the units one would say: `4.2 s`, `3 min 05 s`, `2 h 10 min`."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _is_number(value: Any) -> bool:
    """Whether a table cell may stand flush right."""
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def environment() -> Environment:
    """Where the pages' templates come from; everything put into them is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("tenfold.core", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, duration=duration)
    return environment
