"""A model card in Markdown, written from what a run measured: what the model is, how it was made, figures, limits."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tenfold.core import report
from tenfold.core.atomic import write_atomic
from tenfold.core.claims import Claim
from tenfold.core.config import read_object, restore_non_finite
from tenfold.core.errors import printable
from tenfold.core.model_folder import CONFIG
from tenfold.core.run import Run

CARD = "README.md"  # the name under which model hubs show a card
WITH_ANSWERS = ("answers",)  # tables of what a model said: no figures, and nobody checked the words
USE = (
    "Research and teaching on language models, and text tasks whose answers somebody checks. Not for advice to a person on "
    "health, law or money, and not for decisions about people."
)
LIMITS = (
    "It says false things with confidence, and what a small model refuses can be had in other words.",
    "Safety figures are counts by rule: a refusal is told by its phrases, and the requests are made up, of harmless words. They "
    "compare stages and models of one run; they do not show that the model is safe.",
    "Figures hold for the data and the settings named here. Test it on your own requests before anyone relies on it: "
    "`tenfold afm safety MODEL --requests FILE`.",
)
MOST_CHARACTERS, PARAGRAPH = 300, 4000  # of a value in a table, of a paragraph


def write_card(run: Run, folder: Path, title: str, tables: Collection[str] | None = None) -> None:
    """Write the card of a model that a run made, into the model's folder; arguments as in `card`."""
    write_atomic(folder / CARD, card(run, folder, title, tables, maker=run))


def card(run: Run, model: Path, title: str, tables: Collection[str] | None = None, *, maker: Run | None = None) -> str:
    """A card's Markdown.

    Args:
        run: whose figures are shown: its summary, tables and claims.
        model: folder or file of the model; what is missing there is left out.
        title: of the card.
        tables: names of the tables to show; None: all but those of a model's answers.
        maker: the run that made the model, where one is known.
    """
    items, claims = report.read_items(run.path)
    made = ("How it was made", _origin(maker)) if maker is not None else None
    measured = ("How it was measured", _origin(run)) if maker is None or maker.path != run.path else None
    sections = [
        ("What it is", _table([{"": name, "value": value} for name, value in facts(model).items()])),
        ("Use", USE),
        *(part for part in (made, measured) if part is not None),
        ("Figures", "\n\n".join([*_figures(run, items, tables), *_claims(claims)])),
        ("Limits", "\n".join(f"- {limit}" for limit in LIMITS)),
    ]
    head = f"---\nlibrary_name: tenfold\npipeline_tag: text-generation\n---\n\n# {plain(title)}\n\n"
    return head + "\n\n".join(f"## {name}\n\n{body}" for name, body in sections if body) + "\n"


def facts(model: Path) -> dict[str, Any]:
    """Shape and size of a model, as its config.json and its files state them."""
    if model.is_file():
        return {"file": model.name, "size, MB": round(model.stat().st_size / 1e6, 1)}
    weights = list(model.glob("*.safetensors"))
    if not weights or not (model / CONFIG).is_file():  # a run has a config too
        return {}
    config = read_object(model / CONFIG)
    names = {
        "architectures": "architecture",
        "num_hidden_layers": "layers",
        "hidden_size": "width",
        "vocab_size": "vocabulary",
        "max_position_embeddings": "tokens it reads at most",
    }
    found = {words: config[name] for name, words in names.items() if name in config}
    if isinstance(found.get("architecture"), list):
        found["architecture"] = ", ".join(map(str, found["architecture"]))
    if isinstance(quantized := config.get("quantization_config"), Mapping):
        found["compressed by"] = quantized.get("quant_method", "unknown")
    return {**found, "weights, MB": round(sum(f.stat().st_size for f in weights) / 1e6, 2)}


def plain(value: Any, most: int = MOST_CHARACTERS) -> str:
    """A value as Markdown shows it literally: no markup, no line breaks, at most so many characters."""
    shown = f"{value:.4g}" if isinstance(value, float) else str(value)
    shown = " ".join(printable(shown).split())
    shown = shown if len(shown) <= most else f"{shown[: most - 1]}…"
    for char, spelt in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        shown = shown.replace(char, spelt)
    return "".join(f"\\{char}" if char in "\\`*_[]|#" else char for char in shown)


def _origin(run: Run) -> str:
    """What made a run: versions, command, settings."""
    versions = ", ".join(f"{name} {version}" for name, version in run.about["versions"].items())
    command = printable(str(run.about["command"]))
    settings = [
        {"setting": name, "value": value}
        for name, value in run.config.items()
        if value not in (None, "", [], {}) and not isinstance(value, Mapping | list)
    ]
    source = f"After {plain(run.about['paper'])}." if run.about.get("paper") else ""
    parts = [
        f"With {plain(versions)}, on {plain(run.about['created'])[:10]}:",
        f"    {command}",
        source,
        _table(settings),
    ]
    return "\n\n".join(part for part in parts if part)


def _figures(run: Run, items: Sequence[Mapping[str, Any]], tables: Collection[str] | None) -> list[str]:
    parts = []
    for item in items:
        name = item["name"]
        if item["kind"] == "text":
            parts.append(plain(item["text"], PARAGRAPH))
        elif item["kind"] == "table" and (name in tables if tables is not None else name not in WITH_ANSWERS):
            table = read_object(run.path / "tables" / f"{name}.json", rows=list)
            note = plain(table.get("note") or "", PARAGRAPH)
            parts += [part for part in (f"### {plain(name)}", _table(restore_non_finite(table["rows"])), note) if part]
    return parts


def _claims(claims: Sequence[Claim]) -> list[str]:
    if not claims:
        return []
    rows = [
        {"claim": each.name, "value": each.value, "baseline": each.baseline, "seeds": each.seeds, "": each.verdict}
        for each in claims
    ]
    return ["### claims", _table(rows)]


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [[plain(column) for column in columns], ["---"] * len(columns)]
    lines += [[plain(row.get(column, "")) for column in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
