"""Interleaved documents and few-shot prompts: one rule a document, held-out queries; instructions; the learning-rate law."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tenfold.core.errors import UserError
from tenfold.lm.lr_law import MM1_LAW, fit_lr_law, learning_rate
from tenfold.vision.instructions import Instructions, final_answer, make_query
from tenfold.vision.interleaved import (
    ATTRIBUTES,
    LANGUAGES,
    CaptionDocuments,
    EmojiNames,
    InterleavedDocuments,
    attribute,
    combinations,
    few_shot_queries,
    held_out_combinations,
)


def combination(thing: dict[str, object]) -> tuple[object, ...]:
    return tuple(thing[name] for name in ("shape", "colour", "size", "row", "col"))


def rules_of(document: list[dict[str, object]]) -> set[str]:
    """The rules that fit every line."""
    pairs = [(a["image"]["scene"][0], b["text"].strip()) for a, b in zip(document[::2], document[1::2], strict=True)]  # type: ignore[index]
    return {rule for rule in ATTRIBUTES if all(attribute(thing, rule) == text for thing, text in pairs)}


def test_one_rule_holds_in_a_document_and_none_in_the_control() -> None:
    documents, control = InterleavedDocuments(("attr",), 0, 50), InterleavedDocuments(("attr",), 0, 50, control=True)
    held_out = held_out_combinations()
    assert len(combinations()) == 432 and len(held_out) == 65
    for i in range(50):
        document = documents[i]
        assert 3 <= len(document) // 2 <= 9 and rules_of(document)
        assert not any(combination(segment["image"]["scene"][0]) in held_out for segment in document[::2])
        assert document == InterleavedDocuments(("attr",), 0, 50)[i] != documents[(i + 1) % 50]
    assert sum(bool(rules_of(control[i])) for i in range(50)) < 10


def test_questions_stay_in_one_family() -> None:
    documents = InterleavedDocuments(("vqa",), 0, 10)
    for i in range(10):
        starts = {segment["text"].split()[1] for segment in documents[i] if "text" in segment}
        assert len(starts) <= 1 or starts <= {"how", "what", "is"}
        assert all(" Short answer: " in s["text"] and s["text"].endswith("\n") for s in documents[i] if "text" in s)


def test_queries_are_held_out_and_do_not_depend_on_the_demonstrations() -> None:
    none, eight = few_shot_queries("attr", 0, 20, 3), few_shot_queries("attr", 8, 20, 3)
    for a, b in zip(none, eight, strict=True):
        assert (a.prompt, a.answer, len(a.demos), len(b.demos)) == (b.prompt, b.answer, 0, 8)
        thing = b.prompt[0]["image"]["scene"][0]
        assert combination(thing) in held_out_combinations() and attribute(thing, b.note) == b.answer
        assert all(demo[1]["text"] == attribute(demo[0]["image"]["scene"][0], b.note) + "\n" for demo in b.demos)
        assert all(demo[0] != b.prompt[0] for demo in b.demos)
    assert few_shot_queries("caption", 1, 2, 0)[0].prompt[1]["text"] == "A photo of"
    assert few_shot_queries("vqa", 1, 2, 0)[0].prompt[1]["text"].startswith("Question: ")


def test_emoji_documents(data_dir: Path) -> None:
    emoji = EmojiNames.read(data_dir / "08-mm1" / "emoji-val.tar")
    assert len(emoji.rows) == 152
    by_name = {str(image): row for row in emoji.rows for image in row["images"]}
    for kind in ("lang", "group", "bind"):
        documents = InterleavedDocuments((kind,), 1, 6, emoji)
        for i in range(6):
            lines = [(by_name[str(a["image"])], b["text"].strip()) for a, b in zip(documents[i][::2], documents[i][1::2], strict=True)]  # fmt: skip
            if kind == "lang":
                assert any(all(row["name"].get(lang, row["name"]["en"]) == text for row, text in lines) for lang in LANGUAGES)  # fmt: skip
            elif kind == "group":
                assert all(row["subgroup"] == text for row, text in lines)
            else:
                assert len({row["subgroup"] for row, _ in lines}) == len({text for _, text in lines}) <= 2
    with pytest.raises(UserError, match="need emoji-train"):
        InterleavedDocuments(("lang",), 0, 1)


def test_captions_and_instructions() -> None:
    captions = CaptionDocuments(0, 40, synthetic=0.5)
    texts = [captions[i][1]["text"] for i in range(40)]
    assert any(text.startswith("A photo of a ") for text in texts) and any("The picture has" in text for text in texts)
    train, test = Instructions(("scenes", "several", "reading"), 0, 30), Instructions(("scenes",), 0, 30, part="test")
    for i in range(30):
        document = train[i]
        learnt = [segment for segment in document if "text" in segment and segment.get("loss", True)]
        assert len(learnt) == 1 and learnt[0] is document[-1]
    assert train[0] != test[0]
    for name, value in (("worked", 1.5), ("demos", -1)):
        with pytest.raises(ValueError, match=name):
            Instructions(("several",), 0, 1, **{name: value})
    with pytest.raises(ValueError, match="need some of"):
        Instructions(("riddles",), 0, 1)


def test_the_law_is_found_again_and_gives_the_papers_rates() -> None:
    sizes = np.array([9e6, 85e6, 302e6, 1.2e9])
    found = fit_lr_law([(n, learning_rate(n)) for n in sizes])
    assert found == pytest.approx(MM1_LAW, abs=1e-9)
    for size, rate in ((9e6, 6.75e-4), (1.2e9, 8.58e-5), (2.9e9, 5.92e-5), (30e9, 2.21e-5)):
        assert learning_rate(size) == pytest.approx(rate, rel=2e-3)
    with pytest.raises(ValueError, match="two different sizes"):
        fit_lr_law([(1e6, 1e-3)])


def test_demonstrations_answer_as_the_question_is_answered_and_all_answers_are_learnt() -> None:
    drawn = Instructions(("several",), 0, 60, worked=0.5, demos=4)
    queries = [drawn.query(i) for i in range(60)]
    assert {len(query.demos) for query in queries} == set(range(5))
    styles = set()
    for index, query in enumerate(queries):
        worked = " so " in query.answer
        styles.add(worked)
        assert all((" so " in demo[-1]["text"]) is worked for demo in query.demos)
        assert all(demo[-2]["text"] == query.prompt[-1]["text"] for demo in query.demos)  # the same question
        learnt = [segment for segment in drawn[index] if "text" in segment and segment.get("loss", True)]
        assert [s["text"] for s in learnt] == [*(d[-1]["text"] for d in query.demos), f" {query.answer}\n"]
    assert styles == {True, False}
    for i in range(20):
        direct, worked = (make_query("several", np.random.default_rng(i), worked=worked) for worked in (False, True))
        assert worked.prompt == direct.prompt and worked.answer != direct.answer == final_answer(worked.answer)
