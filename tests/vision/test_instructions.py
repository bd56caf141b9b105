"""Conversations about one picture."""

import json
from pathlib import Path

import pytest

from tenfold.vision.instructions import Instructions
from tenfold.vision.interleaved import QUESTION_FAMILIES
from tenfold.vision.scenes import scene_questions

QUESTIONS = [[f"is it {colour}?", "yes" if picture == i else "no", picture] for picture in range(3) for i, colour in enumerate(("red", "blue", "teal", "gray"))]  # fmt: skip


@pytest.fixture
def easy(tmp_path: Path) -> str:
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "questions.json").write_text(json.dumps(QUESTIONS))
    return str(tmp_path)


def turns_of(document: list[dict[str, object]]) -> list[tuple[str, str]]:
    texts = [str(segment["text"]) for segment in document if "text" in segment]
    return list(zip(texts[::2], texts[1::2], strict=True))


@pytest.mark.parametrize("turns", [2, 3, 9])
def test_a_conversation_asks_each_question_once_about_one_picture_and_learns_from_every_answer(easy: str, turns: int) -> None:  # fmt: skip
    documents = Instructions(("easy_vqa",), 0, 40, turns=turns, easy=easy)
    pictures = set()
    for document in documents:
        assert "image" in document[0] and sum("image" in segment for segment in document) == 1
        picture = int(Path(str(document[0]["image"])).stem)
        pictures.add(picture)
        told = turns_of(document)
        assert len(told) == len(set(told)) == min(turns, 4)
        right = {f"Question: {question} Short answer:": f" {answer}\n" for question, answer, of in QUESTIONS if of == picture}  # fmt: skip
        assert all(right[question] == answer for question, answer in told)
        learnt = [segment.get("loss", True) for segment in document if "text" in segment]
        assert learnt == [False, True] * len(told)
    assert pictures == {0, 1, 2}
    assert documents[7] == Instructions(("easy_vqa",), 0, 40, turns=turns, easy=easy)[7]
    assert documents[7] != Instructions(("easy_vqa",), 1, 40, turns=turns, easy=easy)[7]


def test_conversations_begin_with_one_question_of_each_family(tmp_path: Path) -> None:
    about = [
        ["is it red?", "yes"],
        ["is it blue?", "no"],
        ["what color is it?", "red"],
        ["what shape is red?", "circle"],
    ]
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "questions.json").write_text(json.dumps([[*each, picture] for picture in range(5) for each in about]))  # fmt: skip
    for document in Instructions(("easy_vqa",), 0, 30, turns=3, easy=str(tmp_path)):
        answers = {answer.strip() for _, answer in turns_of(document)}
        assert len(answers & {"yes", "no"}) == 1 and {"red", "circle"} < answers


@pytest.mark.parametrize("turns", [2, 4, 9])
def test_questions_about_a_scene_are_of_different_families_and_rightly_answered(turns: int) -> None:
    lengths = set()
    for document in Instructions(("scenes",), 3, 60, turns=turns):
        told = turns_of(document)
        right = {f"Question: {each.question} Short answer:": each for each in scene_questions(document[0]["image"]["scene"])}  # fmt: skip
        assert all(right[question].answer == answer.strip() for question, answer in told)
        assert len({right[question].family for question, _ in told}) == len(told) <= turns
        lengths.add(len(told))
    assert max(lengths) == min(turns, len(QUESTION_FAMILIES))


def test_tests_and_single_turns_ask_one_question(easy: str) -> None:
    for documents in (Instructions(("easy_vqa",), 0, 5, easy=easy), Instructions(("easy_vqa",), 0, 5, turns=3, part="test", easy=easy)):  # fmt: skip
        assert all(len(turns_of(document)) == 1 for document in documents)
    with pytest.raises(ValueError, match=r"turns: got 0"):
        Instructions(("easy_vqa",), 0, 5, turns=0)


def test_signs_to_learn_from_have_one_to_three_letters_and_those_asked_three() -> None:
    lengths = {
        part: {len(Instructions(("reading",), 0, 60, part=part).query(i).answer) for i in range(60)}
        for part in ("train", "test")
    }
    assert lengths == {"train": {1, 2, 3}, "test": {3}}
    query = Instructions(("reading",), 0, 1).query(0)
    assert query.answer == query.prompt[0]["image"]["sign"]["word"]
