"""Exports of Neo4j as triples: the CSV files of `neo4j-admin database import`, and APOC's single CSV file."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tenfold.core.errors import UserError
from tenfold.graph.readers import csv_rows
from tenfold.graph.vocabulary import Triple

Key = tuple[str, str]  # space of ids ("" where none is named), id

# The columns with a role: `personId:ID(Person)`, `:START_ID(Person)`, `:TYPE`, or `_id`, `_start`, `_type`.
_ROLE = re.compile(r"[^:]*:(START_ID|END_ID|TYPE|ID)(?:\(([^)]*)\))?(?:\{.*\})?|_(start|end|type|id)")
_APOC = {"start": "START_ID", "end": "END_ID", "type": "TYPE", "id": "ID"}


@dataclass
class _Export:
    """What the files hold so far."""

    nodes: dict[Key, str] = field(default_factory=dict)  # "" for a node without a name
    edges: list[tuple[str, Key, str, Key]] = field(default_factory=list)  # place in the files, start, type, end


def read_neo4j(*files: str | Path, name: str = "name") -> list[Triple]:
    """The relationships of an export, (start, type, end), in its order.

    A node is called by its property `name`, with its id behind it where several nodes have that name, and by its id
    where it has no name or no file lists the nodes.

    Args:
        files: comma-separated, perhaps gzipped, each with a first line that names its columns: of relationships
            (:START_ID, :END_ID, :TYPE), of nodes (:ID), or of both (_id, _start, _end, _type).
        name: the property.
    Raises:
        UserError: a file of another kind, a damaged line, a relationship of an unlisted node, or no relationship.
    """
    export = _Export()
    for file in files:
        _read(Path(file), name, export)
    if not export.edges:
        raise UserError(f"no triples in {', '.join(str(file) for file in files)}")
    namesakes = Counter(export.nodes.values())

    def called(key: Key, place: str) -> str:
        if export.nodes and key not in export.nodes:
            raise UserError(f"{place}: no node has the id {key[1]!r}; give the file that lists it")
        identity = ":".join(part for part in key if part)
        given = export.nodes.get(key)
        if not given:
            return identity
        return given if namesakes[given] == 1 else f"{given} ({identity})"

    return [(called(start, place), kind, called(end, place)) for place, start, kind, end in export.edges]


def _read(file: Path, name: str, export: _Export) -> None:
    """Add the nodes and relationships of one file."""
    rows = csv_rows(file)
    header = next(rows, (1, []))[1]
    roles: dict[str, tuple[int, str]] = {}  # role: its column and space of ids
    named = None
    for column, title in enumerate(header):
        if match := _ROLE.fullmatch(title.strip()):
            roles[match[1] or _APOC[match[3]]] = column, match[2] or ""
        elif title.strip().split(":")[0] == name:
            named = column
    edge_roles = ("START_ID", "END_ID", "TYPE")
    has_edges = all(role in roles for role in edge_roles)
    if not has_edges and ("ID" not in roles or "START_ID" in roles):
        raise UserError(f"{file}: got the columns {', '.join(header)[:200]}; need :START_ID, :END_ID and :TYPE, or :ID")
    for number, fields in rows:
        place = f"{file} line {number}"
        if len(fields) != len(header):
            raise UserError(f"{place}: got {len(fields)} columns, need {len(header)} as in its first line")
        value = {role: fields[column].strip() for role, (column, _) in roles.items()}
        key = {role: (roles[role][1], value[role]) for role in roles}
        if has_edges and value["START_ID"]:
            if not value["END_ID"] or not value["TYPE"]:
                raise UserError(f"{place}: got {','.join(fields)[:200]!r}, need a start, an end and a type")
            export.edges.append((place, key["START_ID"], value["TYPE"], key["END_ID"]))
        elif value.get("ID"):
            export.nodes[key["ID"]] = fields[named].strip() if named is not None else ""
        else:
            raise UserError(f"{place}: got {','.join(fields)[:200]!r}, need an id, or a start, an end and a type")
