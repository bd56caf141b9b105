"""From the files of a public origin to the files the recipes read: pure functions from bytes to bytes.

Every function takes the contents of the origin files in the order of the catalogue and returns the content of
one file: UTF-8 text, or JSON Lines with one object a row.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any

Conversion = Callable[[Sequence[bytes]], bytes]

_START = re.compile(r"^\*\*\* ?START OF TH(?:E|IS) PROJECT GUTENBERG EBOOK.*$", re.MULTILINE)
_END = re.compile(r"^\*\*\* ?END OF TH(?:E|IS) PROJECT GUTENBERG EBOOK", re.MULTILINE)
# The transcriber's credit and the last line. "produced by" is matched anywhere, which also blanks one line of the
# story in two of the novels; the rule stays, since every published figure was measured on these very bytes.
_CREDITS = re.compile(r"^(?:.*produced by.*|End of (?:the )?Project Gutenberg.*)$", re.MULTILINE | re.IGNORECASE)


def unchanged(origins: Sequence[bytes]) -> bytes:
    """The single origin file as it is."""
    (content,) = origins
    return content


def first_lines(count: int) -> Conversion:
    """The first `count` lines of the single origin file."""

    def convert(origins: Sequence[bytes]) -> bytes:
        (content,) = origins
        return b"".join(content.splitlines(keepends=True)[:count])

    return convert


def shuffled_lines(count: int, *, seed: int) -> Conversion:
    """The first `count` lines of the single origin file once its lines are shuffled."""

    def convert(origins: Sequence[bytes]) -> bytes:
        (content,) = origins
        lines = content.splitlines(keepends=True)
        random.Random(seed).shuffle(lines)
        return b"".join(lines[:count])

    return convert


def gzipped(convert: Conversion) -> Conversion:
    """The result of `convert`, gzipped without name or time, so that equal content gives an equal file."""

    def compressed(origins: Sequence[bytes]) -> bytes:
        buffer = io.BytesIO()
        with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, compresslevel=9, mtime=0) as file:
            file.write(convert(origins))
        return buffer.getvalue()

    return compressed


def archived_text(name: str) -> Conversion:
    """The text file `name` of the single origin, a gzipped tar archive; its lines end in a line feed alone."""

    def convert(origins: Sequence[bytes]) -> bytes:
        (content,) = origins
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            member = archive.extractfile(name)
            if member is None:
                raise ValueError(f"archive: got no file behind the name {name}, need a text")
            return member.read().replace(b"\r\n", b"\n")

    return convert


def numbered_triples(origins: Sequence[bytes]) -> bytes:
    """Lines "head, relation, tail" of names, split by tabs, of triples of numbers in the layout of OpenKE.

    The origins are the entities and the relations, lines "name number", and the triples, lines "head tail relation" of
    numbers; the first line of each counts the others.
    """
    entities, relations, triples = ([line.split() for line in text.decode().split("\n")[1:]] for text in origins)
    entity, relation = ({row[1]: row[0] for row in rows if row} for rows in (entities, relations))
    rows = (f"{entity[head]}\t{relation[kind]}\t{entity[tail]}\n" for head, tail, kind in filter(None, triples))
    return "".join(rows).encode()


def gutenberg_book(origins: Sequence[bytes]) -> bytes:
    """The text of a Project Gutenberg book between its START and END marks, without the transcriber's credit."""
    (content,) = origins
    text = content.decode("utf-8-sig").replace("\r\n", "\n")
    start, end = _START.search(text), _END.search(text)
    if start is None or end is None:
        raise ValueError("book: got a text without START and END marks, need a Project Gutenberg plain-text book")
    return (_CREDITS.sub("", text[start.end() : end.start()]).strip() + "\n").encode()


def movie_reviews(origins: Sequence[bytes]) -> bytes:
    """Rows {id, label, text} of the polarity archive: `movie_reviews/{neg,pos}/cv000_29416.txt`, in name order."""
    (content,) = origins
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = sorted(name for name in archive.namelist() if re.search(r"/(neg|pos)/cv\d+_\d+\.txt$", name))
        return _json_lines(_review(name, archive.read(name)) for name in names)


def graded_reviews(count: int, *, seed: int, words: int = 4) -> Conversion:
    """The first `count` graded sentences {product, score, n, text} of the review archives, once they are shuffled.

    A line "feature[+2],other[-1]##text" holds n graded opinions, and their sum is the score. Sentences without a grade
    or with fewer than `words` words are left out.
    """

    def convert(origins: Sequence[bytes]) -> bytes:
        rows = [row for content in origins for row in _graded_sentences(content) if len(row["text"].split()) >= words]
        random.Random(seed).shuffle(rows)
        return _json_lines(rows[:count])

    return convert


def multiple_choice(name: str, rows: Sequence[int]) -> Conversion:
    """The rows chosen, as {id, context, choices, gold}; ARC, PIQA and BoolQ contexts end with "Answer:"."""

    def row(item: dict[str, Any]) -> dict[str, Any]:
        context = item["query"]
        if name in ("arc_easy", "arc_challenge", "piqa", "boolq"):
            context = context.removeprefix("Passage: ").rstrip("\n") + "\nAnswer:"
        return {"context": context, "choices": item["choices"], "gold": item["gold"]}

    return _chosen(name, rows, row)


def winogrande(rows: Sequence[int]) -> Conversion:
    """The rows chosen, as {id, contexts, continuation, gold}."""

    def row(item: dict[str, Any]) -> dict[str, Any]:
        return {"contexts": item["context_options"], "continuation": item["continuation"], "gold": item["gold"]}

    return _chosen("winogrande", rows, row)


def lambada(rows: Sequence[int]) -> Conversion:
    """The rows chosen, as {id, context, target}: the target is the passage's last word."""
    return _chosen("lambada", rows, lambda item: {"context": item["context"], "target": item["continuation"].strip()})


def blimp(rows: Sequence[int], per_paradigm: int = 1000) -> Conversion:
    """Minimal pairs {id, field, phenomenon, paradigm, good, bad}; `rows` count through the paradigms' files."""

    def convert(origins: Sequence[bytes]) -> bytes:
        items = [_parse(content) for content in origins]
        if any(len(paradigm) != per_paradigm for paradigm in items):
            raise ValueError(f"blimp: got {sorted({len(p) for p in items})} pairs a file, need {per_paradigm}")
        return _json_lines(_pair(*divmod(row, per_paradigm), items) for row in rows)

    return convert


def _pair(paradigm: int, number: int, items: list[list[dict[str, Any]]]) -> dict[str, Any]:
    item = items[paradigm][number]
    return {
        "id": f"{item['UID']}-{number}",
        "field": item["field"],
        "phenomenon": item["linguistics_term"],
        "paradigm": item["UID"],
        "good": item["sentence_good"],
        "bad": item["sentence_bad"],
    }


def _review(name: str, content: bytes) -> dict[str, Any]:
    _, label, file = name.rsplit("/", 2)
    return {"id": file.split("_")[0], "label": label, "text": content.decode()}


def _graded_sentences(archive: bytes) -> Iterable[dict[str, Any]]:
    with zipfile.ZipFile(io.BytesIO(archive)) as reviews:
        for name in sorted(reviews.namelist()):
            product = name.rsplit("/", 1)[1].removesuffix(".txt")
            if product in ("", "README"):
                continue
            for line in reviews.read(name).decode().split("\n"):
                tags, _, text = line.partition("##")
                grades = [int(grade) for grade in re.findall(r"\[([+-]\d)\]", tags)]
                if text and grades:
                    yield {"product": product, "score": sum(grades), "n": len(grades), "text": text.strip()}


def _chosen(name: str, rows: Sequence[int], row: Callable[[dict[str, Any]], dict[str, Any]]) -> Conversion:
    """Rows of one JSON Lines file; the id keeps the row's number in its origin."""

    def convert(origins: Sequence[bytes]) -> bytes:
        (content,) = origins
        items = _parse(content)
        return _json_lines({"id": f"{name}-{number}"} | row(items[number]) for number in rows)

    return convert


def _parse(content: bytes) -> list[dict[str, Any]]:
    # Split at "\n" only: splitlines() would also cut at U+2028 and the like, which JSON strings may hold.
    return [json.loads(line) for line in content.decode().split("\n") if line]


def _json_lines(rows: Iterable[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
