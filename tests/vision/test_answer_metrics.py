"""CIDEr, VQA accuracy and retrieval: gold figures, laws, refusals; files of the field."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch

from tenfold.core.errors import UserError
from tenfold.vision.answer_files import (
    read_coco_captions,
    read_vqa,
    write_answers,
    write_captions,
)
from tenfold.vision.cider import cider, penn_tokens
from tenfold.vision.document_readers import (
    read_captions,
    read_llava,
    read_mmc4,
    read_obelics,
    read_texts,
)
from tenfold.vision.retrieval import retrieval
from tenfold.vision.vqa_accuracy import (
    ARTICLES,
    CONTRACTIONS,
    NUMBERS,
    PUNCTUATION,
    normalised_answer,
    vqa_accuracy,
)


def test_cider_is_that_of_the_public_evaluation(data_dir: Path) -> None:
    gold = json.loads((data_dir / "08-mm1" / "cider_example.json").read_text())
    for tokenize in (False, True):
        found = cider(gold["refs"], gold["hyps"], tokenize=tokenize)
        assert found.score == pytest.approx(gold["cider"], abs=1e-9)
        assert found.per_image == pytest.approx(gold["per_image"], abs=1e-9)
    same = {key: texts[0] for key, texts in gold["refs"].items()}
    assert cider(gold["refs"], same).score == pytest.approx(4.649584703565979, abs=1e-9)
    assert cider(gold["refs"], gold["hyps"] | {"1": ""}).per_image[0] == 0


def test_cider_of_too_little() -> None:
    with pytest.warns(UserWarning, match="of one image is 0"):
        assert cider({"a": ["x y"]}, {"a": "x y"}).score == 0
    with pytest.raises(UserError, match="none for 1 images: b"):
        cider({"a": ["x"], "b": ["y"]}, {"a": "x"})
    assert penn_tokens('A dog\'s "ball" (red), isn\'t it? No...') == ["a", "dog", "'s", "ball", "red", "is", "n't", "it", "no"]  # fmt: skip


def test_vqa_tables_are_the_public_ones(data_dir: Path) -> None:
    told = json.loads((data_dir / "08-mm1" / "vqa_normalise.json").read_text())
    assert told["contractions"] == CONTRACTIONS and told["numbers"] == NUMBERS
    assert set(told["articles"]) == ARTICLES and set(told["punctuation"]) == set(PUNCTUATION)


def test_vqa_accuracy_by_hand() -> None:
    assert vqa_accuracy("cat", ["cat"] * 3 + ["dog"] * 7) == pytest.approx((3 * 2 / 3 + 7) / 10)
    assert vqa_accuracy("cat", ["cat"] * 10) == 1 and vqa_accuracy("cow", ["cat"] * 10) == 0
    assert vqa_accuracy("yes", ["yes"] * 3) == pytest.approx(2 / 3)
    assert vqa_accuracy("Yes.", ["yes"]) == 1 and vqa_accuracy("no", ["yes"]) == 0
    # The public rule leaves equal answers as they are, so a capital costs everything.
    assert vqa_accuracy("Yes", ["yes"] * 10) == 1 and vqa_accuracy("Yes", ["yes"] * 10, "official") == 0
    assert vqa_accuracy("Yes", ["yes"] * 9 + ["no"], "official") == 1
    with pytest.raises(UserError, match="got none"):
        vqa_accuracy("x", [])


@pytest.mark.parametrize(
    ("text", "told"),
    [("The two dogs.", "2 dogs"), ("1,000", "1000"), ("dont", "don't"), ("red/blue", "red blue"), ("red / blue", "red blue"), ("3.5", "3.5"), ("a\nb", "b")],
)  # fmt: skip
def test_answers_are_normalised(text: str, told: str) -> None:
    assert normalised_answer(text) == told


def test_retrieval_counts_ties_against_the_model() -> None:
    eye = torch.eye(3)
    assert retrieval(eye, eye, (1, 2)) == {"R@1": 1.0, "R@2": 1.0, "median_rank": 1.0}
    flat = torch.ones(3, 3)
    assert retrieval(flat, flat, (1, 3)) == {"R@1": 0.0, "R@3": 1.0, "median_rank": 3.0}
    groups = torch.tensor([0, 0, 1])
    assert retrieval(eye[[1, 2]], eye, (1,), query_groups=torch.tensor([0, 1]), item_groups=groups)["R@1"] == 1
    with pytest.raises(ValueError, match=r"numbers in 1\.\.3"):
        retrieval(eye, eye, (4,))


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_interleaved_files(tmp_path: Path) -> None:
    obelics = lines(tmp_path / "o.jsonl", {"images": [None, "a.png"], "texts": ["hello", None]})
    assert read_obelics(obelics, "pics") == [[{"text": "hello"}, {"image": "pics/a.png"}]]
    with pytest.raises(UserError, match=r"o\.jsonl:1: slot 0: images and texts are both set"):
        read_obelics(lines(tmp_path / "o.jsonl", {"images": ["a.png"], "texts": ["x"]}))
    with pytest.raises(UserError, match="both null"):
        read_obelics(lines(tmp_path / "o.jsonl", {"images": [None], "texts": [None]}))
    with pytest.raises(UserError, match="below the folder"):
        read_obelics(lines(tmp_path / "o.jsonl", {"images": ["../a.png"], "texts": [None]}))
    mmc4 = {"text_list": ["one", "two"], "image_info": [{"image_name": "b.png", "matched_text_index": 1}]}
    assert read_mmc4(lines(tmp_path / "m.jsonl", mmc4)) == [[{"text": "one "}, {"image": "b.png"}, {"text": "two"}]]
    with pytest.raises(UserError, match=r"matched_text_index: got 7"):
        read_mmc4(lines(tmp_path / "m.jsonl", {"text_list": ["x"], "image_info": [{"image_name": "b", "matched_text_index": 7}]}))  # fmt: skip
    talk = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "a dog, not an <image>"}]
    (tmp_path / "l.json").write_text(json.dumps([{"image": "c.png", "conversations": talk}]))
    assert read_llava(tmp_path / "l.json") == [
        [
            {"image": "c.png"},
            {"text": "Question: what? Answer:", "loss": False},
            {"text": " a dog, not an <image>\n", "loss": True},
        ]
    ]
    (tmp_path / "l.json").write_text(json.dumps([{"conversations": talk}]))
    with pytest.raises(UserError, match="1 <image> marks and 0 pictures"):
        read_llava(tmp_path / "l.json")
    (tmp_path / "t.gz").write_bytes(gzip.compress(b"one\n\ntwo\n"))
    assert read_texts(tmp_path / "t.gz") == [[{"text": "one"}], [{"text": "two"}]]


def test_caption_shards(data_dir: Path) -> None:
    with pytest.raises(UserError, match="data not found"):
        read_captions(data_dir / "08-mm1" / "none.tar")


def test_answer_files(tmp_path: Path) -> None:
    asked = {"questions": [{"question_id": 1, "image_id": 2, "question": "what?"}]}
    told = {"annotations": [{"question_id": 1, "answers": [{"answer": "dog"}, {"answer": "cat"}]}]}
    for name, content in (("q", asked), ("a", told)):
        (tmp_path / name).write_text(json.dumps(content))
    (only,) = read_vqa(tmp_path / "q", tmp_path / "a")
    assert (only.question, only.answers) == ("what?", ("dog", "cat"))
    (tmp_path / "a").write_text(json.dumps({"annotations": []}))
    with pytest.raises(UserError, match="no answers to 1 questions, first 1"):
        read_vqa(tmp_path / "q", tmp_path / "a")
    (tmp_path / "c").write_text(
        json.dumps({"annotations": [{"image_id": 3, "caption": "x"}, {"image_id": 3, "caption": "y"}]})
    )
    assert read_coco_captions(tmp_path / "c") == {3: ["x", "y"]}
    write_captions(tmp_path / "out" / "c.json", {3: "a dog"})
    write_answers(tmp_path / "out" / "a.json", {1: "dog"})
    assert json.loads((tmp_path / "out" / "c.json").read_text()) == [{"image_id": 3, "caption": "a dog"}]
    assert json.loads((tmp_path / "out" / "a.json").read_text()) == [{"question_id": 1, "answer": "dog"}]
