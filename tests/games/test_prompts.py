"""Prompt packs: our own, those of files, and what is wrong with some."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from tenfold.core.errors import UserError
from tenfold.games.game import Turn
from tenfold.games.prompts import DEFAULT_PACK, GUESS, PLAIN_TEMPLATE, PromptPack
from tenfold.text.tokenizer import Tokenizer

PACK = {
    "rules": ["Play {max_turns} turns."],
    "start": " Go.",
    "history_header": " So far:",
    "line": " [{role}] {content}",
    "instruction": {"attacker": "Word: {target_word}.", "defender": "Find it."},
    "cue": " >",
}


def test_our_own_pack_states_the_rules_eight_times() -> None:
    assert len(set(DEFAULT_PACK.rules)) == 8
    for wording in range(8):
        rule = DEFAULT_PACK.rule(7, wording)
        assert "7" in rule and GUESS.replace("{word}", "target word") in rule and "{" not in rule


def test_a_pack_from_a_file_is_used_to_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "pack.json"
    path.write_text(json.dumps(PACK))
    pack = PromptPack.load(path)
    assert pack.text([], "attacker", 4, "cat") == "Play 4 turns. Go.\n\n### Instruction: Word: cat. >"
    turns = [Turn("attacker", "{content} {max_turns}"), Turn("defender", "{role}")]
    assert pack.text(turns[:1], "defender", 4).startswith("Play 4 turns. So far: [attacker] {content} {max_turns}\n")
    assert " [defender] {role}\n" in pack.text(turns, "attacker", 4, "cat")
    assert PromptPack.load(path) == dataclasses.replace(pack)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rules": []}, "rules: got none"),
        ({"rules": "Play."}, "rules"),
        ({"cue": None}, "cue"),
        ({"more": 1}, "more"),
        ({"instruction": {"attacker": "{target_word}"}}, "instruction: got attacker, need attacker and defender"),
        ({"instruction": {"attacker": "Go.", "defender": "Go."}}, "the attacker's lacks {target_word}"),
        ({"start": "It is {target_word}."}, "{target_word} belongs into the attacker's instruction only"),
    ],
)
def test_faulty_packs(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "pack.json"
    path.write_text(json.dumps({**PACK, **change}))
    with pytest.raises(UserError) as caught:
        PromptPack.load(path)
    assert message in str(caught.value) and "pack.json" in str(caught.value) and "\n" not in str(caught.value)


def test_absent_packs_and_words(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="prompt pack not found: "):
        PromptPack.load(tmp_path / "none.json")
    with pytest.raises(ValueError, match="target: got None"):
        DEFAULT_PACK.text([], "attacker", 5)


def test_the_plain_template_writes_the_text_alone(tokenizer: Tokenizer) -> None:
    plain = Tokenizer(tokenizer.backend, eos_token=tokenizer.eos_token, chat_template=PLAIN_TEMPLATE)
    rows = [{"role": "user", "content": "the word"}]
    assert plain.apply_chat_template(rows, add_generation_prompt=True) == plain.encode("the word")
