"""Transcripts on disk: round trips, torn and damaged files, one writer."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tenfold.core.errors import UserError
from tenfold.games.game import Episode, Turn, Verdict
from tenfold.games.store import TranscriptStore, episode_of, row_of

Make = Callable[..., Episode]
texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20)


@given(texts=st.lists(texts, max_size=4), span=st.none() | st.tuples(st.integers(0, 9), st.integers(0, 9)))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_episode_is_read_as_it_was_written(texts: list[str], span: tuple[int, int] | None, episode: Make) -> None:
    turns = tuple(Turn("attacker", t, 3, 2, -1.5, "length", (1, 2), (-0.5, -1.0)) for t in texts)
    turns += (Turn("defender", "", token_ids=(1,)),)
    game = replace(episode([], ""), turns=turns, verdict=Verdict("attacker wins", 1, "why", span))
    assert episode_of(json.loads(json.dumps(row_of(game)))) == game


def test_the_line_has_the_documented_fields(episode: Make) -> None:
    row = row_of(episode(["a"], "tied game"))
    assert set(row) == {"id", "game", "setup", "seed", "speakers", "turns", "verdict", "version"}
    assert set(row["turns"][0]) == {"role", "text", "n_prompt", "n_new", "logprob_sum", "finish"}
    assert row["version"] == 1


def test_a_store_grows_and_is_read_again(tmp_path: Path, episode: Make) -> None:
    path = tmp_path / "deep" / "games.jsonl"
    games = [episode(["line\nbreak\u2028", "ü"], "tied game", repeat=i) for i in range(3)]
    with TranscriptStore(path) as store:
        store.add(games[0])
        store.add(games[1])
        assert len(TranscriptStore(path, read_only=True)) == 2  # a reader sees them at once
        with pytest.raises(ValueError, match=f"id: got {games[0].id}, need one that"):
            store.add(games[0])
    with TranscriptStore(path) as store:
        assert len(store) == 2 and games[0].id in store and games[2].id not in store
        store.add(games[2])
        assert list(store) == games
    with pytest.raises(ValueError, match="closed or read only"):
        store.add(games[0])


@pytest.mark.parametrize("cut", [1, 2, 40, -1])
def test_a_torn_last_line_is_dropped(cut: int, tmp_path: Path, episode: Make) -> None:
    path = tmp_path / "games.jsonl"
    games = [episode(["a"], "tied game", repeat=i) for i in range(2)]
    with TranscriptStore(path) as store:
        for game in games:
            store.add(game)
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    path.write_bytes(whole[: first + cut] if cut > 0 else whole[:cut])
    assert list(TranscriptStore(path, read_only=True)) == games[:1]
    with pytest.warns(UserWarning, match="its last line was torn"), TranscriptStore(path) as store:
        store.add(games[1])
    assert path.read_bytes() == whole


def _without(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda row: {key: value for key, value in row.items() if key != name}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda row: "{half", "games.jsonl:1: not JSON"),
        (lambda row: "[" * 100_000, "games.jsonl:1: not JSON"),
        (lambda row: "[1]", "games.jsonl:1: no episode: it lacks an id"),
        (_without("id"), "games.jsonl:1: no episode: it lacks an id"),
        (lambda row: {**row, "version": 2}, "games.jsonl:1: version 2, this tenfold reads 1"),
        (_without("version"), "games.jsonl:1: version None"),
        (_without("turns"), "games.jsonl:1: no whole episode"),
        (lambda row: {**row, "turns": [{"role": "attacker", "text": 3}]}, "games.jsonl:1: no whole episode"),
        (lambda row: {**row, "verdict": {"outcome": "x"}}, "games.jsonl:1: no whole episode"),
        (lambda row: {**row, "speakers": []}, "games.jsonl:1: no whole episode"),
        (lambda row: {**row, "seed": math.inf}, "games.jsonl:1: no whole episode"),
    ],
)
def test_damage_before_the_last_line_is_told(damage: Callable, message: str, tmp_path: Path, episode: Make) -> None:
    path = tmp_path / "games.jsonl"
    good = row_of(episode(["a"], "tied game"))
    bad = damage(good)
    bad = bad if isinstance(bad, str) else json.dumps(bad)
    path.write_text(f"{bad}\n{json.dumps({**good, 'id': 'other'})}\n")
    with pytest.raises(UserError, match=message) as caught:
        list(TranscriptStore(path, read_only=True))
    assert "\n" not in str(caught.value)


def test_a_second_writer_waits_outside(tmp_path: Path) -> None:
    path = tmp_path / "games.jsonl"
    code = f"from tenfold.games.store import TranscriptStore; TranscriptStore({str(path)!r})"
    with TranscriptStore(path):
        again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "another process writes it" in again.stderr
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_reader_needs_a_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="transcripts not found"):
        TranscriptStore(tmp_path / "none.jsonl", read_only=True)
