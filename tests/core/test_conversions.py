"""Conversions on small samples in the layout of each origin, written for these tests."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from typing import Any

import pytest

from tenfold.core import conversions


def lines(*rows: dict[str, Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parse(content: bytes) -> list[dict[str, Any]]:
    assert content.endswith(b"\n")
    return [json.loads(line) for line in content.decode().removesuffix("\n").split("\n")]


def test_book_keeps_the_text_between_its_marks() -> None:
    origin = (
        "\ufeffThe Project Gutenberg EBook of A Tale\r\n\r\n"
        "*** START OF THIS PROJECT GUTENBERG EBOOK A TALE ***\r\n\r\n\r\n"
        "Produced by a Volunteer\r\n\r\n\r\nA TALE\r\n\r\n  It’s begun\r\nby dawn.\r\n\r\n\r\n"
        "End of the Project Gutenberg EBook of A Tale, by N. N.\r\n\r\n"
        "*** END OF THIS PROJECT GUTENBERG EBOOK A TALE ***\r\nlicence\r\n"
    )
    assert conversions.gutenberg_book([origin.encode()]).decode() == "A TALE\n\n  It’s begun\nby dawn.\n"


def test_book_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="START and END marks"):
        conversions.gutenberg_book([b"just text"])


def test_movie_reviews_in_order_of_label_and_number() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("movie_reviews/README", "about")
        archive.writestr("movie_reviews/pos/cv000_22.txt", "fine . \n")
        archive.writestr("movie_reviews/neg/cv001_7.txt", "dull . \n")
        archive.writestr("movie_reviews/neg/cv000_9.txt", 'worse " . \n')
    assert parse(conversions.movie_reviews([buffer.getvalue()])) == [
        {"id": "cv000", "label": "neg", "text": 'worse " . \n'},
        {"id": "cv001", "label": "neg", "text": "dull . \n"},
        {"id": "cv000", "label": "pos", "text": "fine . \n"},
    ]


def test_first_lines_and_gzip() -> None:
    origin = b'{"a": 1}\n{"a": 2}\n{"a": 3}\n'
    assert conversions.first_lines(2)([origin]) == b'{"a": 1}\n{"a": 2}\n'
    packed = conversions.gzipped(conversions.unchanged)
    assert gzip.decompress(packed([origin])) == origin
    assert packed([origin]) == packed([origin])
    assert packed([origin])[4:8] == bytes(4)  # no time of packing


def test_shuffled_lines_are_drawn_without_repetition() -> None:
    origin = "".join(f"line {i}\u2028\n" for i in range(9)).encode()
    drawn = conversions.shuffled_lines(5, seed=0)([origin])
    assert drawn == conversions.shuffled_lines(5, seed=0)([origin])
    assert drawn != conversions.shuffled_lines(5, seed=1)([origin])
    kept = drawn.split(b"\n")[:-1]
    assert len(set(kept)) == 5 and set(kept) <= set(origin.split(b"\n"))
    # The known draw: Python's shuffle of 9 with seed 0 starts with 7, 5, 1.
    assert [line[5:6] for line in kept[:3]] == [b"7", b"5", b"1"]


def test_graded_sentences() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("product_reviews_1/", "")
        archive.writestr("product_reviews_1/README.txt", "about[+1]##not one of the reviews")
        archive.writestr(
            "product_reviews_1/Camera_X.txt",
            "[t]the title\n"
            "lens[+2],screen[-3][u]## the lens is fine \n"
            "##nobody graded this sentence\n"
            "size[+1]##it is small\n"
            "size[2]##a grade without its sign\n"
            "no sentence here[+1]\n"
            "price[-1] ##too dear for ## me\n",
        )
    rows = [
        {"product": "Camera_X", "score": -1, "n": 2, "text": "the lens is fine"},
        {"product": "Camera_X", "score": -1, "n": 1, "text": "too dear for ## me"},
    ]
    got = parse(conversions.graded_reviews(9, seed=1)([buffer.getvalue()]))
    assert sorted(got, key=lambda row: -row["n"]) == rows
    assert len(parse(conversions.graded_reviews(1, seed=1)([buffer.getvalue()]))) == 1
    assert len(parse(conversions.graded_reviews(9, seed=1, words=3)([buffer.getvalue()]))) == 3


@pytest.mark.parametrize(
    ("name", "query", "context"),
    [
        ("arc_easy", "Question: Why?", "Question: Why?\nAnswer:"),
        ("piqa", "Question: how to\n", "Question: how to\nAnswer:"),
        ("boolq", "Passage: Ice is cold.\nQuestion: is ice cold?", "Ice is cold.\nQuestion: is ice cold?\nAnswer:"),
        ("openbookqa", "Predators eat", "Predators eat"),
        ("copa", "The woman retired, therefore", "The woman retired, therefore"),
    ],
)
def test_multiple_choice(name: str, query: str, context: str) -> None:
    other = {"query": "?", "choices": ["x"], "gold": 0}
    origin = lines(other, {"choices": ["no", "yes é"], "gold": 1, "query": query}, other)
    assert parse(conversions.multiple_choice(name, [1])([origin])) == [
        {"id": f"{name}-1", "context": context, "choices": ["no", "yes é"], "gold": 1}
    ]


def test_rows_are_cut_at_line_feeds_only() -> None:
    origin = '{"query": "a b\u2028c\x85d", "choices": ["e"], "gold": 0}\n'.encode()
    assert parse(conversions.multiple_choice("copa", [0])([origin]))[0]["context"] == "a b\u2028c\x85d"


def test_winogrande() -> None:
    origin = lines({"context_options": ["so Ann", "so Bob"], "continuation": "left.", "gold": 1})
    assert parse(conversions.winogrande([0])([origin])) == [
        {"id": "winogrande-0", "contexts": ["so Ann", "so Bob"], "continuation": "left.", "gold": 1}
    ]


def test_lambada_target_is_the_bare_word() -> None:
    origin = lines({"context": "He saw the", "continuation": "\n\nrecorder"})
    assert parse(conversions.lambada([0])([origin])) == [
        {"id": "lambada-0", "context": "He saw the", "target": "recorder"}
    ]


def blimp_pair(paradigm: str, number: int) -> dict[str, Any]:
    return {
        "sentence_good": f"{paradigm} good {number}",
        "sentence_bad": f"{paradigm} bad {number}",
        "field": "syntax",
        "linguistics_term": "binding",
        "UID": paradigm,
        "pairID": str(number),
    }


def test_blimp_rows_count_through_the_files() -> None:
    origins = [lines(*(blimp_pair(paradigm, number) for number in range(3))) for paradigm in ("first", "second")]
    rows = parse(conversions.blimp([2, 3], per_paradigm=3)(origins))
    assert [row["id"] for row in rows] == ["first-2", "second-0"]
    assert rows[1] == {
        "id": "second-0",
        "field": "syntax",
        "phenomenon": "binding",
        "paradigm": "second",
        "good": "second good 0",
        "bad": "second bad 0",
    }


def test_blimp_needs_whole_paradigms() -> None:
    with pytest.raises(ValueError, match=r"got \[2\] pairs a file, need 3"):
        conversions.blimp([0], per_paradigm=3)([lines(blimp_pair("p", 0), blimp_pair("p", 1))])


def test_text_out_of_an_archive() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in (("train.txt", b"a\tr\tb\r\nb\tr\ta\r\n"), ("test.txt", b"a\tr\ta\n")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    assert conversions.archived_text("train.txt")([buffer.getvalue()]) == b"a\tr\tb\nb\tr\ta\n"
    assert conversions.archived_text("test.txt")([buffer.getvalue()]) == b"a\tr\ta\n"
    with pytest.raises(KeyError, match="valid"):
        conversions.archived_text("valid.txt")([buffer.getvalue()])


def test_triples_of_numbers_get_their_names() -> None:
    entities = b"3\r\nann\t1\r\nbob\t0\r\ncy\t2\r\n"
    relations, triples = b"2\nlikes\t1\nsees\t0\n", b"2\n0 1 1\n2 0 0"
    converted = conversions.numbered_triples([entities, relations, triples])
    assert converted == b"bob\tlikes\tann\ncy\tsees\tbob\n"
