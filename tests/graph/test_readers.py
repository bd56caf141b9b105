"""Files of triples: what is read, what is refused and in which words; parts held out."""

from __future__ import annotations

import gzip
import itertools
from collections import Counter
from pathlib import Path

import pytest

from tenfold.core.errors import UserError
from tenfold.graph import readers
from tenfold.graph.knowledge_graph import KnowledgeGraph
from tenfold.graph.readers import hold_out, read_folder, read_rdf, read_triples

TRIPLES = [("a", "likes", "b c"), ("b c", "sees", "ä")]
TEXT = "a\tlikes\tb c\nb c\tsees\tä\n"


def write(file: Path, text: str | bytes) -> Path:
    content = text.encode() if isinstance(text, str) else text
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)
    return file


@pytest.mark.parametrize("name", ["train.tsv", "train.txt", "train.triples", "train.tsv.gz", "train.triples.gz"])
@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        TEXT.rstrip(),
        TEXT.replace("\n", "\r\n"),
        "\ufeff" + TEXT,
        "\n" + TEXT.replace("\n", "\n \n"),
        TEXT.replace("\t", " \t "),
    ],
)
def test_triples_are_read(tmp_path: Path, name: str, text: str) -> None:
    assert read_triples(write(tmp_path / name, text)) == TRIPLES


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ('a,likes,"b c"\nb c,sees,ä\n', "hrt"),
        ("head,relation,tail\na,likes,b c\nb c,sees,ä\n", "hrt"),
        ("Tail, Head, Relation\nb c,a,likes\nä,b c,sees\n", "hrt"),
        ("predicate,subject,object\nlikes,a,b c\nsees,b c,ä\n", "htr"),
        ("a,b c,likes\n\nb c,ä,sees\n", "htr"),
    ],
)
def test_commas_and_named_columns(tmp_path: Path, text: str, order: str) -> None:
    assert read_triples(write(tmp_path / "train.csv", text), order) == TRIPLES


def test_quoted_names_may_hold_anything(tmp_path: Path) -> None:
    file = write(tmp_path / "train.csv", 'a,likes,"Smith, ""Jo""\nand sons"\n')
    assert read_triples(file) == [("a", "likes", 'Smith, "Jo"\nand sons')]


def test_a_line_of_names_is_one_only_in_the_first_line(tmp_path: Path) -> None:
    head = ("head", "relation", "tail")
    assert read_triples(write(tmp_path / "a.csv", "a,likes,b\nhead,relation,tail\n"))[1] == head
    assert read_triples(write(tmp_path / "a.tsv", "tail\trelation\thead\nb\tlikes\ta\n")) == [("a", "likes", "b")]


@pytest.mark.parametrize(("order", "columns"), [("htr", "a\tb c\tlikes\n"), ("trh", "b c\tlikes\ta\n")])
def test_other_orders_of_columns(tmp_path: Path, order: str, columns: str) -> None:
    file = write(tmp_path / "train.tsv", columns)
    assert read_triples(file, order) == TRIPLES[:1]
    assert KnowledgeGraph.from_tsv(file, order=order).entity_names == ("a", "b c")


@pytest.mark.parametrize("order", ["", "hr", "hhrt", "hrx"])
def test_unknown_orders_are_refused(tmp_path: Path, order: str) -> None:
    with pytest.raises(ValueError, match=f"order: got {order!r}, need the letters h, r and t"):
        read_triples(write(tmp_path / "train.tsv", TEXT), order)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.tsv", "a\tb\tc\na\tb\n", r"t\.tsv line 2: got 'a\\tb', need three columns, none of them empty"),
        ("t.tsv", "a\tb\tc\td\n", r"t\.tsv line 1: got 'a\\tb\\tc\\td'"),
        ("t.tsv", "a\tb\tc\n\n\na\t\tc\n", r"t\.tsv line 4: got 'a\\t\\tc'"),
        ("t.tsv", "a\t \tc\n", r"t\.tsv line 1: got 'a\\t\\tc'"),
        ("t.tsv", "a b c\n", r"t\.tsv line 1: got 'a b c'"),
        ("t.tsv.gz", "a\tb\n", r"t\.tsv\.gz line 1: got 'a\\tb'"),
        ("t.csv", "a,b,c\n\na,b\n", r"t\.csv line 3: got 'a,b'"),
        ("t.csv", 'a,b,"' + "x" * 140_000, r"t\.csv line 1: no comma-separated text"),
        ("t.tsv", "x" * 500, r"line 1: got 'x{200}', need"),
        ("t.tsv", "", r"no triples in .*t\.tsv"),
        ("t.tsv", " \n\n", r"no triples in .*t\.tsv"),
        ("t.csv", "head,relation,tail\n", r"no triples in .*t\.csv"),
        ("t.tsv", b"a\tb\t\xff\n", r"t\.tsv is not UTF-8"),
        ("t.tsv", "a" * (1 << 20 | 1), "the line is longer than 1048576 characters"),
    ],
)
def test_bad_files_say_file_line_and_text(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_triples(write(tmp_path / name, content))


def test_damaged_gzip_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "train.tsv.gz"
    whole = gzip.compress(TEXT.encode() * 100)
    for content in (TEXT.encode(), whole[:-3], whole[:20]):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"train\.tsv\.gz is not a whole gzip file"):
            read_triples(file)


def test_a_folder_of_splits(tmp_path: Path) -> None:
    write(tmp_path / "train.txt", TEXT)
    assert read_folder(tmp_path) == {"train": TRIPLES, "valid": [], "test": []}
    write(tmp_path / "dev.tsv.gz", "a\tlikes\td\n")
    write(tmp_path / "test.triples", "a\tlikes\te\n")
    write(tmp_path / "graph.csv", "a,knows,b\n")
    write(tmp_path / "raw.kb", "nothing that is read")
    splits = read_folder(tmp_path)
    assert splits["valid"] == [("a", "likes", "d")] and splits["test"] == [("a", "likes", "e")]
    assert splits["graph"] == [("a", "knows", "b")]
    kg = KnowledgeGraph.from_tsv(tmp_path)
    assert (kg.num_edges, kg.num_entities, len(kg.splits["train"])) == (2, 6, 2)


def test_a_file_is_all_there_is_to_train_on(tmp_path: Path) -> None:
    assert read_folder(write(tmp_path / "mine.tsv", TEXT)) == {"train": TRIPLES, "valid": [], "test": []}


def test_a_missing_folder_or_split_says_what_is_expected(tmp_path: Path) -> None:
    for folder in (tmp_path / "wn18rr", tmp_path):
        with pytest.raises(UserError) as caught:
            KnowledgeGraph.from_tsv(folder)
        assert str(caught.value) == f"kg data {folder.name!r} not found: expected {folder / 'train.tsv.gz'}"


@pytest.mark.parametrize(("one", "other"), [("train.tsv", "train.txt.gz"), ("valid.tsv", "dev.tsv")])
def test_two_files_for_a_split_are_one_too_many(tmp_path: Path, one: str, other: str) -> None:
    for name in {"train.tsv", one, other}:
        write(tmp_path / name, TEXT)
    with pytest.raises(UserError, match=f"got ({one} and {other}|{other} and {one}), need one of them"):
        read_folder(tmp_path)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.tsv: No such file"):
        read_triples(tmp_path / "none.tsv")


RDF = """
<http://x/a> <http://x/likes> <http://x/b> .
<http://x/b> <http://x/sees> <http://x/a> .
<http://x/a> <http://x/name> "Ann" .
_:blank <http://x/likes> <http://x/b> .
"""
TURTLE = """@prefix x: <http://x/> .
x:b x:sees x:a . x:a x:likes x:b ; x:name "Ann" . [] x:likes x:b .
"""


@pytest.mark.parametrize(("name", "text"), [("g.nt", RDF), ("g.nt.gz", RDF), ("g.ttl", TURTLE), ("g.ttl.gz", TURTLE)])
def test_rdf_gives_the_triples_of_iris(tmp_path: Path, name: str, text: str) -> None:
    pytest.importorskip("rdflib", reason="needs rdflib")
    likes, sees = ("http://x/a", "http://x/likes", "http://x/b"), ("http://x/b", "http://x/sees", "http://x/a")
    assert read_rdf(write(tmp_path / name, text)) == [likes, sees]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("g.nt", "<http://x/a> nonsense", r"g\.nt: no nt that can be read"),
        ("g.ttl", "@prefix x: .", r"g\.ttl: no turtle that can be read"),
        ("g.nt", '<http://x/a> <http://x/b> "c" .\n', r"no triples in .*g\.nt"),
        ("g.xml", "<rdf/>", r"g\.xml: need N-Triples .* or Turtle"),
    ],
)
def test_bad_rdf_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    pytest.importorskip("rdflib", reason="needs rdflib")
    with pytest.raises(UserError, match=message):
        read_rdf(write(tmp_path / name, text))


def test_without_rdflib_the_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(readers, "import_module", absent)
    with pytest.raises(UserError, match=r"rdflib not found: .* pip install 'tenfold\[graph\]'"):
        read_rdf(write(tmp_path / "g.nt", RDF))


@pytest.fixture
def many() -> list[tuple[str, str, str]]:
    return [(f"e{i % 17}", f"r{i % 3}", f"e{i * 7 % 19}") for i in range(200)]


def test_held_out_triples_leave_no_name_behind(many: list) -> None:
    splits = hold_out([*many, ("once", "r0", "e1"), ("e1", "rare", "e2")], 0.1, 0.2, seed=1)
    distinct = set(many) | {("once", "r0", "e1"), ("e1", "rare", "e2")}
    assert Counter(itertools.chain(*splits.values())) == Counter(distinct)
    assert (len(splits["valid"]), len(splits["test"])) == (round(0.1 * len(distinct)), round(0.2 * len(distinct)))
    trained = {name for head, relation, tail in splits["train"] for name in (head, relation, tail)}
    assert all(name in trained for triple in splits["valid"] + splits["test"] for name in triple)
    assert KnowledgeGraph.from_triples(**splits).degrees.min() > 0


def test_no_name_is_lost_where_each_comes_twice() -> None:
    ring = [(f"e{number}", "r", f"e{(number + 1) % 50}") for number in range(50)]
    splits = hold_out(ring, 0.4, 0.4, seed=0)
    assert len({name for head, _, tail in splits["train"] for name in (head, tail)}) == 50
    assert 10 < len(splits["valid"]) + len(splits["test"]) <= 25


def test_holding_out_follows_the_seed(many: list) -> None:
    assert hold_out(many, seed=1) == hold_out(many, seed=1) != hold_out(many, seed=2)


@pytest.mark.parametrize("shares", [(0.5, 0.5), (-0.1, 0.2), (1.0, 0.0)])
def test_shares_leave_something_to_train_on(many: list, shares: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="valid, test: got"):
        hold_out(many, *shares)


def test_fewer_are_held_out_where_names_would_be_lost() -> None:
    assert len(hold_out([("a", "r", "b"), ("c", "q", "d")], 0.4, 0.4)["train"]) == 2


def test_any_bytes_are_read_or_refused(tmp_path: Path) -> None:
    whole, packed = TEXT.encode(), gzip.compress(TEXT.encode(), mtime=0)
    for name, content in (("t.tsv", whole), ("t.csv", whole), ("t.tsv.gz", packed)):
        for place in range(len(content)):
            (tmp_path / name).write_bytes(content[:place] + bytes([place]) + content[place + 1 :])
            try:
                triples = read_triples(tmp_path / name)
            except UserError:
                continue
            assert triples and all(len(triple) == 3 and all(triple) for triple in triples)
