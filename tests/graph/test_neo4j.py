"""Exports of Neo4j: both layouts, ids and names, and what is refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from tenfold.core.errors import UserError
from tenfold.graph.neo4j import read_neo4j

PEOPLE = (
    "personId:ID(Person),name,born:int,:LABEL\n1,Ann,1950,Person\n2,Bob,1960,Person\n3,Ann,1970,Person\n4,,,Person\n"
)
FILMS = "id:ID(Film),name:string,:LABEL\n1,Alien,Film\n"
ROLES = ":START_ID(Person),role,:END_ID(Film),:TYPE\n1,pilot,1,ACTED_IN\n2,,1,DIRECTED\n3,,1,SAW\n4,,1,SAW\n"
APOC = (
    '"_id","_labels","name","_start","_end","_type"\n"0",":Person","Ann",,,\n"1",":Film","Alien",,,\n,,,"0","1","SAW"\n'
)


def files(folder: Path, *texts: str) -> list[Path]:
    paths = []
    for number, text in enumerate(texts):
        paths.append(folder / f"export{number}.csv")
        paths[-1].write_text(text)
    return paths


def test_nodes_and_relationships(tmp_path: Path) -> None:
    expected = [
        ("Ann (Person:1)", "ACTED_IN", "Alien"),
        ("Bob", "DIRECTED", "Alien"),
        ("Ann (Person:3)", "SAW", "Alien"),
        ("Person:4", "SAW", "Alien"),
    ]
    assert read_neo4j(*files(tmp_path, PEOPLE, FILMS, ROLES)) == expected
    assert read_neo4j(*files(tmp_path, ROLES, FILMS, PEOPLE)) == expected


def test_another_property_as_name(tmp_path: Path) -> None:
    nodes = ":ID,title\nx,X\ny,Y\n"
    edges = ":START_ID,:END_ID,:TYPE\nx,y,R\n"
    assert read_neo4j(*files(tmp_path, nodes, edges), name="title") == [("X", "R", "Y")]
    assert read_neo4j(*files(tmp_path, nodes, edges)) == [("x", "R", "y")]


def test_relationships_alone_are_called_by_their_ids(tmp_path: Path) -> None:
    file = tmp_path / "edges.csv.gz"
    file.write_bytes(gzip.compress(b":START_ID,:END_ID,:TYPE\n1,2,KNOWS\n2,1,KNOWS\n"))
    assert read_neo4j(file) == [("1", "KNOWS", "2"), ("2", "KNOWS", "1")]


def test_one_file_of_both(tmp_path: Path) -> None:
    assert read_neo4j(*files(tmp_path, APOC)) == [("Ann", "SAW", "Alien")]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a,b\n1,2\n"], r"export0\.csv: got the columns a, b; need :START_ID, :END_ID and :TYPE, or :ID"),
        ([":START_ID,:END_ID\n1,2\n"], "need :START_ID, :END_ID and :TYPE"),
        ([""], "need :START_ID, :END_ID and :TYPE"),
        ([PEOPLE], r"no triples in .*export0\.csv"),
        ([PEOPLE, ":START_ID(Person),:END_ID(Person),:TYPE\n1,9,R\n"], r"export1\.csv line 2: no node has the id '9'"),
        ([":START_ID,:END_ID,:TYPE\n1,2\n"], r"export0\.csv line 2: got 2 columns, need 3"),
        ([":START_ID,:END_ID,:TYPE\n1,,R\n"], r"line 2: got '1,,R', need a start, an end and a type"),
        ([":START_ID,:END_ID,:TYPE\n1,2,\n"], r"line 2: got '1,2,', need a start, an end and a type"),
        ([":START_ID,:END_ID,:TYPE\n,2,R\n"], r"line 2: got ',2,R', need an id, or a start, an end and a type"),
        ([":ID\n \n"], r"line 2: got ' ', need an id"),
    ],
)
def test_bad_exports_are_refused(tmp_path: Path, texts: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_neo4j(*files(tmp_path, *texts))
