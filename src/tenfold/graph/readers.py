"""Files of triples: folders of splits, tab- or comma-separated text, RDF; and parts held out of one list."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import cast

import numpy as np

from tenfold.core import packed
from tenfold.core.errors import UserError
from tenfold.graph.vocabulary import Triple

SPLITS = {"train": ("train",), "valid": ("valid", "dev"), "test": ("test",), "graph": ("graph",)}
SUFFIXES = tuple(suffix + packed for suffix in (".tsv", ".txt", ".triples", ".csv") for packed in (".gz", ""))
COLUMNS = {"head": "h", "relation": "r", "tail": "t", "subject": "h", "predicate": "r", "object": "t"}
LONGEST_LINE = 1 << 20  # characters

Row = tuple[int, list[str]]  # number of the line, its fields


def read_folder(path: str | Path, order: str = "hrt") -> dict[str, list[Triple]]:
    """The splits of a folder; a single file counts as its "train".

    Args:
        path: holds train, and perhaps valid (or dev), test and graph, each a .tsv, .txt, .triples or .csv, perhaps
            with .gz behind it.
        order: of the columns, "hrt" or another order of these letters.
    Returns:
        "train", "valid", "test" (empty where there is no file) and, where there is one, "graph".
    Raises:
        UserError: no or several files for a split, a file without triples, or a line that is none.
    """
    folder = Path(path)
    if folder.is_file():
        return {"train": read_triples(folder, order), "valid": [], "test": []}
    files = {split: _split_file(folder, names) for split, names in SPLITS.items()}
    if files["train"] is None:
        raise UserError(f"kg data {folder.resolve().name!r} not found: expected {folder / 'train.tsv.gz'}")
    splits = {split: read_triples(file, order) for split, file in files.items() if file is not None}
    return {"valid": [], "test": [], **splits}


def read_triples(path: str | Path, order: str = "hrt") -> list[Triple]:
    """The triples of one text file (UTF-8): three columns split by tabs, or by commas in a .csv; empty lines are skipped.

    The first line may name the columns: head, relation, tail or subject, predicate, object.

    Args:
        path: the file; gzipped where its name ends in .gz.
        order: of the columns where no line names them.
    Raises:
        UserError: no triples, or a line that is none; names file and line.
    """
    if sorted(order) != ["h", "r", "t"]:
        raise ValueError(f"order: got {order!r}, need the letters h, r and t, each once")
    file = Path(path)
    is_csv = ".csv" in file.suffixes
    triples: list[Triple] = []
    for number, fields in csv_rows(file) if is_csv else _tab_rows(file):
        fields = [field.strip() for field in fields]
        named = "".join(COLUMNS.get(field.lower(), "?") for field in fields)
        if number == 1 and sorted(named) == sorted(order):
            order = named
        elif len(fields) != 3 or "" in fields:
            text = ("," if is_csv else "\t").join(fields)
            raise UserError(f"{file} line {number}: got {text[:200]!r}, need three columns, none of them empty")
        else:
            triples.append(cast(Triple, tuple(fields[order.index(letter)] for letter in "hrt")))
    if not triples:
        raise UserError(f"no triples in {file}")
    return triples


def read_rdf(path: str | Path) -> list[Triple]:
    """The triples of an RDF file whose three parts all have an IRI, sorted; the IRIs are the names.

    Literals and blank nodes have no name that an answer could give: their triples are left out.

    Args:
        path: N-Triples (.nt) or Turtle (.ttl), perhaps with .gz behind it.
    Raises:
        UserError: rdflib is not installed, or the file is none of these, is damaged or has no such triple.
    """
    try:
        rdflib = import_module("rdflib")
    except ImportError as error:
        raise UserError("rdflib not found: it reads RDF; install it: pip install 'tenfold[graph]'") from error
    file = Path(path)
    kind = {".nt": "nt", ".ttl": "turtle"}.get(Path(file.name.removesuffix(".gz")).suffix)
    if kind is None:
        raise UserError(f"{file}: need N-Triples (.nt, .nt.gz) or Turtle (.ttl, .ttl.gz)")
    text = "".join(text_lines(file))
    try:
        graph = rdflib.Graph().parse(data=text, format=kind)
    except Exception as error:  # its parsers have no kind of error in common
        raise UserError(f"{file}: no {kind} that can be read ({' '.join(str(error).split())[:200]})") from error
    triples = sorted(
        (str(head), str(relation), str(tail))
        for head, relation, tail in graph
        if isinstance(head, rdflib.URIRef) and isinstance(tail, rdflib.URIRef)
    )
    if not triples:
        raise UserError(f"no triples in {file}")
    return triples


def hold_out(
    triples: Sequence[Triple], valid: float = 0.05, test: float = 0.05, *, seed: int = 0
) -> dict[str, list[Triple]]:
    """Split one list into "train", "valid" and "test" so that every name of the held-out triples is left in "train".

    Args:
        triples: in any order; one that comes twice counts once.
        valid, test: the share of each, together below 1. Fewer are held out where too many names would be lost.
        seed: of the choice.
    """
    if min(valid, test) < 0 or valid + test >= 1:
        raise ValueError(f"valid, test: got {valid}, {test}, need shares that leave something to train on")
    distinct = list(dict.fromkeys(triples))
    left = Counter(name for triple in distinct for name in _names(triple))
    splits: dict[str, list[Triple]] = {"train": [], "valid": [], "test": []}
    room = {"valid": round(valid * len(distinct)), "test": round(test * len(distinct))}
    for number in np.random.default_rng(seed).permutation(len(distinct)):
        uses = Counter(_names(distinct[number]))
        split = next((split for split, count in room.items() if len(splits[split]) < count), "train")
        if any(left[name] <= count for name, count in uses.items()):
            split = "train"
        if split != "train":
            left.subtract(uses)
        splits[split].append(distinct[number])
    return splits


def text_lines(file: Path) -> Iterator[str]:
    """The lines of a UTF-8 text file, unpacked where its name ends in .gz.

    Raises:
        UserError: absent, unreadable, damaged, not UTF-8, or with a line longer than any triple.
    """
    try:
        yield from packed.lines(file, encoding="utf-8-sig", longest=LONGEST_LINE)
    except OSError as error:
        raise UserError(f"{file}: {error.strerror or error}") from error


def csv_rows(file: Path) -> Iterator[Row]:
    """The rows of a comma-separated file, empty ones left out."""
    rows = csv.reader(text_lines(file))
    try:
        yield from ((rows.line_num, fields) for fields in rows if fields)
    except csv.Error as error:
        raise UserError(f"{file} line {rows.line_num}: no comma-separated text ({error})") from error


def _tab_rows(file: Path) -> Iterator[Row]:
    return ((number, line.split("\t")) for number, line in enumerate(text_lines(file), 1) if line.strip())


def _names(triple: Triple) -> list[tuple[str, str]]:
    head, relation, tail = triple
    return [("entity", head), ("relation", relation), ("entity", tail)]


def _split_file(folder: Path, names: Sequence[str]) -> Path | None:
    """The only file of a split, None where there is none."""
    files = [folder / (name + suffix) for name in names for suffix in SUFFIXES]
    found = [file for file in files if file.is_file()]
    if len(found) > 1:
        raise UserError(f"kg data {folder.name!r}: got {' and '.join(file.name for file in found)}, need one of them")
    return found[0] if found else None
