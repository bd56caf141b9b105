"""Preferences: columns, token pairs, kept references, errors."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch

from tenfold.align.chat_samples import prompt_ids
from tenfold.align.logprobs import logprobs_of
from tenfold.align.preference_data import (
    GRADES,
    LEVELS,
    Preference,
    collate_pairs,
    encode_preferences,
    preference_batches,
    read_preferences,
    with_references,
)
from tenfold.core.errors import UserError
from tenfold.text.messages import Message
from tenfold.text.tokenizer import Tokenizer

ASKED = [{"role": "user", "content": "one and two?"}]
GOOD, BAD = [{"role": "assistant", "content": "three"}], [{"role": "assistant", "content": "two"}]
USER = Message("user", "one and two?")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "one and two?", "chosen": "three", "rejected": "two"},
        {"prompt": ASKED, "chosen": GOOD, "rejected": BAD},
        {"chosen": ASKED + GOOD, "rejected": ASKED + BAD},
        {"input": {"messages": ASKED}, "preferred_output": GOOD, "non_preferred_output": BAD},
    ],
)
def test_every_form_of_a_row_is_the_same_preference(row: dict) -> None:
    assert read_preferences([row]) == [Preference((USER,), "three", "two")]


def test_levels_and_grades_are_read() -> None:
    row = {"prompt": "a", "chosen": "b", "rejected": "c", "level": "slightly", "chosen_grades": {"if": 2, "harm": 0}}
    (found,) = read_preferences([row])
    assert (found.level, found.chosen_grades, found.rejected_grades) == ("slightly", {"if": 2, "harm": 0}, {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rejected": "three"}, r"row 0: rejected: got the chosen text again \('three'\)"),
        ({"level": "hugely"}, "row 0: level: got 'hugely', need one of significantly, better, slightly, negligibly"),
        ({"chosen_grades": {"if": 3}}, "row 0: chosen_grades: got if: 3, need 0, 1 or 2"),
        ({"rejected_grades": {"wit": 1}}, "row 0: rejected_grades: got wit: 1"),
        ({"rejected_grades": {"if": True}}, "row 0: rejected_grades: got if: True"),
        ({"rejected_grades": [2]}, "row 0: "),
        ({"chosen": GOOD + GOOD}, "row 0: chosen: got 2 turns behind the prompt, need one of the assistant"),
        ({"chosen": ASKED}, "row 0: chosen: got 1 turns behind the prompt, need one of the assistant"),
        ({"prompt": 3}, "row 0: prompt: got int"),
        ({"prompt": []}, "row 0: prompt: got list, need a list of messages, at least one"),
    ],
)
def test_bad_rows(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_preferences([{"prompt": "one and two?", "chosen": "three", "rejected": "two", **changes}])


def test_bad_files(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    with pytest.raises(UserError, match=r"preferences not found: .*pairs\.jsonl"):
        read_preferences(path)
    path.write_text("")
    with pytest.raises(UserError, match="preferences: got none"):
        read_preferences(path)
    path.write_text(json.dumps({"prompt": "a", "chosen": "b"}))
    with pytest.raises(UserError, match=r"pairs\.jsonl:1: got chosen, prompt, need rejected too"):
        read_preferences(path)
    with pytest.raises(UserError, match="prompt: got no turns"):
        read_preferences([{"chosen": GOOD, "rejected": BAD}])


def preferences() -> list[Preference]:
    return [
        Preference((USER,), "three", "two", "significantly", {"if": 2}, {"if": 0, "harm": 1}),
        Preference((USER,), "the answer is three", "no", "negligibly"),
    ]


def test_a_batch_has_the_chosen_rows_first(tokenizer: Tokenizer) -> None:
    pairs = encode_preferences(preferences(), tokenizer, 64)
    batch = collate_pairs(pairs)
    prompt = len(prompt_ids(tokenizer, [USER]))
    for row, text in enumerate(["three", "the answer is three", "two", "no"]):
        said = batch["targets"][row]
        assert tokenizer.decode(said[said != -100].tolist()) == f"{text}<|end|>"
        assert batch["ids"][row, :prompt].tolist() == prompt_ids(tokenizer, [USER])
    assert batch["level"].tolist() == [0, LEVELS.index("negligibly")]
    assert batch["grades"].tolist() == [[2, -100, -100, -100], [-100] * 4, [0, -100, -100, 1], [-100] * 4]
    assert batch["grades"].shape[1] == len(GRADES)
    assert "ref_logprob" not in batch


def test_cutting_keeps_the_end_of_the_response(tokenizer: Tokenizer) -> None:
    (pair,) = encode_preferences(preferences()[:1], tokenizer, 4)
    assert len(pair.chosen.ids) == 4
    assert pair.chosen.ids[-1] == tokenizer.end_id


def test_references_are_kept_with_their_rows(tokenizer: Tokenizer, decoder) -> None:  # type: ignore[no-untyped-def]
    model = decoder()
    pairs = with_references(encode_preferences(preferences(), tokenizer, 64), model)
    batch = collate_pairs(pairs)
    rows = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    torch.testing.assert_close(batch["ref_logprob"], torch.tensor(logprobs_of(model, rows)), rtol=1e-6, atol=1e-6)


def test_the_stream_resumes(tokenizer: Tokenizer) -> None:
    pairs = encode_preferences([Preference((USER,), f"yes {i}", "no") for i in range(7)], tokenizer, 64)
    whole = list(itertools.islice(preference_batches(pairs, 3, seed=1), 6))
    stopped, resumed = (preference_batches(pairs, 3, seed=1) for _ in range(2))
    list(itertools.islice(stopped, 2))
    resumed.load_state_dict(stopped.state_dict())
    for batch, expected in zip(resumed, whole[2:], strict=False):
        assert torch.equal(batch["ids"], expected["ids"])
