"""Draws that a killed process finished are there for the next one, and belong to their prompts alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tenfold.align.draw_file import DrawFile
from tenfold.align.rollout import respond
from tenfold.core.errors import UserError
from tenfold.text.chat import Message, Sampling
from tenfold.text.tokenizer import Tokenizer

PROMPTS = [(Message("user", "one and two?"),), (Message("user", "yes or no"),)]
SHORT = Sampling(max_tokens=12, seed=3)


def test_it_holds_what_was_set_and_forgets_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "a" / "draws.jsonl"
    draws = DrawFile(path, [[1, 2]], SHORT)
    draws[0, 1] = [5, 6]
    draws[0, 0] = []
    with path.open("a") as file:
        file.write('{"prompt": 0, "draw": 2, "ids": [1')
    again = DrawFile(path, [[1, 2]], SHORT)
    assert dict(again) == {(0, 1): [5, 6], (0, 0): []}
    again[0, 2] = [7]
    assert dict(DrawFile(path, [[1, 2]], SHORT)) == {(0, 1): [5, 6], (0, 0): [], (0, 2): [7]}


def test_other_prompts_and_damage_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "draws.jsonl"
    DrawFile(path, [[1, 2]], SHORT)[0, 0] = [3]
    for asked, sampling in (([[1, 3]], SHORT), ([[1, 2]], Sampling(max_tokens=12, seed=4))):
        with pytest.raises(UserError, match="holds draws of other prompts or settings"):
            DrawFile(path, asked, sampling)
    path.write_text("{}\nno JSON\n")
    with pytest.raises(UserError, match="damaged"):
        DrawFile(path, [[1, 2]], SHORT)


class Killed(BaseException): ...


def test_a_killed_call_goes_on_where_it_was(
    decoder,  # type: ignore[no-untyped-def]
    tokenizer: Tokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, path = decoder(), tmp_path / "draws.jsonl"
    whole = respond(model, tokenizer, PROMPTS, 4, SHORT)
    keep, made = DrawFile.__setitem__, []

    def kept(self: DrawFile, place: tuple[int, int], ids: list[int]) -> None:
        keep(self, place, ids)
        made.append(place)
        if len(made) == 3:
            raise Killed

    monkeypatch.setattr(DrawFile, "__setitem__", kept)
    with pytest.raises(Killed):
        respond(model, tokenizer, PROMPTS, 4, SHORT, keep=path)
    assert respond(model, tokenizer, PROMPTS, 4, SHORT, keep=path) == whole
    assert sorted(made) == [(i, j) for i in range(2) for j in range(4)]
    assert respond(decoder(seed=9), tokenizer, PROMPTS, 4, SHORT, keep=path) == whole  # nothing is left to do
